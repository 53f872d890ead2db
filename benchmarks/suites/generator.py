"""A LoRA for ViT-B/16 by a generator, against fine-tuning one."""

from collections.abc import Callable, Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmlora.adapters import LoRAWeights, adapt_with, draw_lora, freeze
from mmlora.adapters.freeze import adapter_parameter_names
from mmlora.adapters.lora_spec import LoRASpec
from mmlora.models.generators import ConvCVAE, LayerHyperNet, LoRAGenerator, PCARidge

from ..core import Case, Comparison, Growth, Spread
from .mixed import tower

ABOUT = """
What a LoRA costs that is generated from the description of a task, and one that is fine-tuned: rank 4 on q and v of
each block of a ViT-B/16. The generators hold the statistics of a small bank of LoRAs that are drawn, and have not
been trained, which does not change what they cost; what their LoRAs are worth is another question
([results](icm_lora.md)). A fine-tuning is so many steps like the one that is measured: *extrapolated* is its time,
the median of a step times their number, for 5 classes with 5 images each and 20 epochs. It was not run.
"""

IMAGES, CLASSES, SHOTS, EPOCHS = 5, 5, 5, 20
STEPS = EPOCHS * CLASSES * SHOTS // IMAGES
WIDTH = 768
KINDS = {
    'ConvCVAE': (ConvCVAE, {}, dict(latent_dim=8, channels=(8, 8))),
    'LayerHyperNet': (LayerHyperNet, {}, dict(embed_dim=16, hidden_dim=32)),
    'PCARidge': (PCARidge, {}, {}),
}
STEP = f'a step of fine-tuning, {IMAGES} images'


def lora(model: nn.Module, rank: int = 4) -> LoRAWeights:
    """Return a fresh LoRA on q and v of each block."""
    sites = [name for name, _ in model.named_modules() if name.endswith('attn.qkv')]
    return draw_lora(model, sites, rank, 'qv', 1.0, torch.Generator().manual_seed(0))


def built(kind: str, spec: LoRASpec, width: int, quick: bool, device: torch.device) -> LoRAGenerator:
    """Return a generator with the statistics of a bank of four LoRAs for each of four tasks."""
    made, usual, small = KINDS[kind]
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    generator = made(spec=spec, description_dim=width, **(small if quick else usual))
    tasks = torch.arange(4).repeat_interleave(4)
    vectors = 0.02 * torch.randn(16, spec.length, generator=draw)
    generator.fit(vectors=vectors, descriptions=torch.randn(4, 2, width, generator=draw), tasks=tasks)
    generator.eval()
    return generator.to(device)


def generated(generator: LoRAGenerator, descriptions: Tensor) -> Callable[[], Tensor]:
    """Return what gives the vector of a LoRA for each description."""
    @torch.no_grad()
    def run() -> Tensor:
        return generator.generate(descriptions)

    return run


def fine_tuning(model: nn.Module, weights: LoRAWeights, device: torch.device) -> Case:
    """Return a step with AdamW as a case."""
    adapt_with(model, weights)
    freeze(model, adapter_parameter_names(model))
    head = nn.Linear(model.embed_dims, CLASSES).to(device)
    learned = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    size = model.img_size[0]
    images = torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(IMAGES, device=device) % CLASSES

    def run() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(model(images)[-1]), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return Case(STEP, run, facts=extrapolated)


def extrapolated(time: Spread) -> dict[str, str]:
    """Return the time of a fine-tuning from those of a step."""
    return {'extrapolated': f'{STEPS} steps: {STEPS * time.median / 1000:.3g} s'}


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare generators with a step, several LoRAs at once with one at a time, and let the rank grow."""
    model, width = tower(quick, device, layers=12), 24 if quick else WIDTH
    weights, rounds = lora(model), 2 if quick else 3
    spec = LoRASpec.of_weights(weights)
    tasks = torch.randn(8, width, generator=torch.Generator().manual_seed(2)).to(device)
    made = {kind: built(kind, spec, width, quick, device) for kind in KINDS}

    first = next(iter(made))
    cases = [Case(f'{kind}: one LoRA', generated(made[kind], tasks[:1])) for kind in made]
    cases.append(fine_tuning(model, weights, device))
    note = 'Each makes another LoRA: nothing is compared.'
    yield Comparison(f'One LoRA of {spec.length} numbers', cases, cases[0].name, None, 0.0, note, rounds, warm_up=1)

    def one_by_one() -> Tensor:
        return torch.cat([generated(made[first], task[None])() for task in tasks])

    at_once = generated(made[first], tasks)
    cases = [Case('one at a time', one_by_one, lambda: {'the LoRAs': one_by_one()}),
             Case('at once', at_once, lambda: {'the LoRAs': at_once()})]
    yield Comparison(f'{len(tasks)} LoRAs of a {first}', cases, 'one at a time', 'one at a time', 1e-4, rounds=rounds)
    grown = {}
    for rank in (1, 2) if quick else (4, 8, 16):
        larger = built(first, LoRASpec.of_weights(lora(tower(quick, device, layers=12), rank)), width, quick, device)
        grown[rank] = Case(f'rank {rank}', generated(larger, tasks[:1]))
    yield Growth(f'{first}: one LoRA', 'rank', grown, rounds)
