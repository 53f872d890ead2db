"""One training step of a whole vision transformer with LoRA: ours, the peers, full fine-tuning, and the frozen floor.

All ways take the same weights, drawn by mmpretrain and converted for timm by this package, and the same factors. A
fused qkv of peft and of mmpretrain has one pair of factors, so that there q and v become one pair of twice the rank,
with B in blocks: the same function and, in the blocks, the same gradients.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmlora.io.convert import invert
from mmlora.registry import MODELS

from ..core import Case, Comparison, Growth, absent
from ..targets import Target
from .steps import frozen_tensors

ABOUT = """
A training step of ViT-B/16 at 224 px with LoRA of rank 8 on q and v of each block: forward, cross entropy, backward and
AdamW; on a GPU in bfloat16. *floor* is what LoRA on each qkv cannot do without: forward, and the gradients backward to
what the first qkv gives, with all weights frozen. peft adapts timm's model, mmpretrain's `LoRAModel` its own, each at
rank 16 on the whole qkv with B in blocks, which is the same function with more numbers; *mmlora, whole qkv* does
just that, for a comparison of equal work. All start from the same weights; logits and gradients of the factors and of
the head are compared. The targets are aims: no slower and no larger than the peers, and 5 % over the floor. See also
[performance](performance.md).
"""

FLOOR, OURS, WHOLE, FULL = 'floor', 'mmlora', 'mmlora, whole qkv', 'full fine-tuning'
PEFT, MMPRETRAIN = 'peft on timm', 'mmpretrain LoRAModel'
PEERS = absent(**{PEFT: 'peft'}) | absent(**{PEFT: 'timm'})
CLASSES = 100


@dataclass(frozen=True)
class Size:
    """A vision transformer and its LoRA."""

    name: str
    image: int
    width: int
    depth: int
    heads: int
    rank: int

    def backbone(self, kind: str, **more: object) -> dict:
        """Return the config of a backbone of mmpretrain's kind."""
        arch = dict(embed_dims=self.width, num_layers=self.depth, num_heads=self.heads,
                    feedforward_channels=4 * self.width)
        return dict(type=kind, arch=arch, img_size=self.image, patch_size=16, **more)


BASE = Size('ViT-B/16', 224, 768, 12, 12, 8)
TINY = Size('a tiny ViT', 32, 16, 2, 2, 2)


class Classifier(nn.Module):
    """A backbone with a linear head on its class token.

    Args:
        backbone: From images to features, or to a tuple of them.
        head: To logits; copied.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(head.in_features, head.out_features)
        self.head.load_state_dict(head.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        features = self.backbone(images)
        return self.head(features[-1] if isinstance(features, tuple) else features)


@dataclass(frozen=True)
class Source:
    """What all ways start from: the weights by mmpretrain's names, the head, and A and B of q and v of each block."""

    size: Size
    weights: Mapping[str, Tensor]
    head: nn.Linear
    factors: list[dict[str, tuple[Tensor, Tensor]]]


def source(size: Size) -> Source:
    """Draw weights and factors."""
    torch.manual_seed(0)
    model = MODELS.build(size.backbone('mmpretrain.VisionTransformer'))
    factors = [{name: (torch.randn(size.rank, size.width) * size.width**-0.5, torch.randn(size.width, size.rank) * 0.02)
                for name in 'qv'} for _ in range(size.depth)]
    return Source(size, model.state_dict(), nn.Linear(size.width, CLASSES), factors)


Gradients = Callable[[], dict[str, Tensor]]


def floor(given: Source) -> tuple[nn.Module, Gradients | None]:
    """Return the frozen model, whose gradients begin where those of the first adapted layer do: at its output."""
    model = full(given)[0].requires_grad_(False)
    model.backbone.layers[0].attn.qkv.register_forward_hook(lambda layer, inputs, output: output.requires_grad_())
    return model, None


def full(given: Source) -> tuple[nn.Module, Gradients | None]:
    """Return the model with all weights learned."""
    model = MODELS.build(given.size.backbone('mmpretrain.VisionTransformer'))
    model.load_state_dict(given.weights)
    return Classifier(model, given.head), None


def by_mmlora(given: Source, blocks: int | None = None) -> tuple[nn.Module, Gradients]:
    """Return ours, with LoRA in the last ``blocks`` of the blocks, all by default."""
    size = given.size
    first = size.depth - (blocks or size.depth)
    ranks = [[size.rank if i >= first else 0, 0] for i in range(size.depth)]
    model = MODELS.build(size.backbone('VitSR_LoRA', lora_ranks=ranks, lora_slices='qv', lora_scaling=1.0))
    layers = {i: model.layers[i].attn.qkv for i in range(first, size.depth)}
    own = {name: tensor for name, tensor in model.state_dict().items() if '.lora_' in name}
    model.load_state_dict({**given.weights, **own})
    for i, layer in layers.items():
        layer.set_factors(given.factors[i])
    learned = {f'{m} of {name} in block {i}': pair[j] for i, layer in layers.items()
               for name, pair in layer.factors().items() for j, m in enumerate('AB')}
    return Classifier(model, given.head), lambda: {name: tensor.grad for name, tensor in learned.items()}


def joint(given: Source, pairs: list[tuple[Tensor, Tensor]]) -> Gradients:
    """Copy the factors of q and v into one pair for each block; return the gradients of their parts."""
    r, width = given.size.rank, given.size.width
    places = {'q': (slice(0, width), slice(0, r)), 'v': (slice(2 * width, None), slice(r, None))}
    with torch.no_grad():
        for (a, b), own in zip(pairs, given.factors, strict=True):
            b.zero_()
            for name, (rows, columns) in places.items():
                a[columns], b[rows, columns] = own[name]

    def gradients() -> dict[str, Tensor]:
        found = {}
        for i, (a, b) in enumerate(pairs):
            for name, (rows, columns) in places.items():
                found[f'A of {name} in block {i}'] = a.grad[columns]
                found[f'B of {name} in block {i}'] = b.grad[rows, columns]
        return found

    return gradients


def by_mmlora_whole(given: Source) -> tuple[nn.Module, Gradients]:
    """Return ours with the whole qkv adapted, as the peers do."""
    size = given.size
    kwargs = dict(lora_ranks=[[2 * size.rank, 0]] * size.depth, lora_slices=None, lora_scaling=1.0)
    model = MODELS.build(size.backbone('VitSR_LoRA', **kwargs))
    own = {name: tensor for name, tensor in model.state_dict().items() if '.lora_' in name}
    model.load_state_dict({**given.weights, **own})
    pairs = [pair for block in model.layers for pair in block.attn.qkv.factors().values()]
    return Classifier(model, given.head), joint(given, pairs)


def by_peft(given: Source) -> tuple[nn.Module, Gradients]:
    """Return peft's model on timm's."""
    from peft import LoraConfig, get_peft_model
    from timm.models import VisionTransformer

    size, rank = given.size, 2 * given.size.rank
    bare = VisionTransformer(size.image, embed_dim=size.width, depth=size.depth, num_heads=size.heads, num_classes=0)
    bare.load_state_dict(invert(given.weights, 'timm'))
    model = get_peft_model(bare, LoraConfig(r=rank, lora_alpha=rank, target_modules=['qkv']))
    layers = [block.attn.qkv for block in bare.blocks]
    pairs = [(layer.lora_A['default'].weight, layer.lora_B['default'].weight) for layer in layers]
    return Classifier(model, given.head), joint(given, pairs)


def by_mmpretrain(given: Source) -> tuple[nn.Module, Gradients]:
    """Return mmpretrain's ``LoRAModel``."""
    rank = 2 * given.size.rank
    bare = given.size.backbone('mmpretrain.VisionTransformer')
    cfg = dict(type='mmpretrain.LoRAModel', module=bare, rank=rank, alpha=rank, targets=[dict(type='.*qkv')])
    logging.disable(logging.INFO)  # It says how each tensor was drawn.
    try:
        model = MODELS.build(cfg)
    finally:
        logging.disable(logging.NOTSET)
    own = {name.replace('.original_layer.', '.'): p for name, p in model.module.named_parameters()}
    with torch.no_grad():
        for name, tensor in given.weights.items():
            own[name].copy_(tensor)
    layers = [block.attn.qkv for block in model.module.layers]
    return Classifier(model, given.head), joint(given, [(x.lora_down.weight, x.lora_up.weight) for x in layers])


WAYS: dict[str, Callable[[Source], tuple[nn.Module, Gradients | None]]] = {
    FLOOR: floor, OURS: by_mmlora, WHOLE: by_mmlora_whole, PEFT: by_peft, MMPRETRAIN: by_mmpretrain, FULL: full,
}  # fmt: skip


def training(name: str, made: tuple[nn.Module, Gradients | None], images: Tensor, amp: bool = False) -> Case:
    """Return a step of a way as a case; the optimizer steps in what is timed, not in what is compared."""
    model, gradients = made
    model.to(images.device).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-5) if learned else None
    labels = torch.arange(len(images), device=images.device) % CLASSES
    context = torch.autocast(images.device.type, torch.bfloat16) if amp else nullcontext()

    def forward() -> Tensor:
        with context:
            return F.cross_entropy(model(images), labels)

    def clear() -> None:
        for parameter in learned:
            parameter.grad = None

    def run() -> None:
        forward().backward()
        if optimizer is not None:
            optimizer.step()
        clear()

    def results() -> dict[str, Tensor]:
        with context:
            logits = model(images)
            F.cross_entropy(logits, labels).backward()
        found = {'the logits': logits.detach(), 'the head': model.head.weight.grad.clone()}
        found |= {key: value.clone() for key, value in gradients().items()}
        clear()
        return found

    known = [images, *frozen_tensors(model)]
    return Case(name, run, results if gradients else None, forward, lambda: known)


def side_by_side(size: Size, batch: int, device: torch.device, rounds: int) -> Comparison:
    """Return a step of all ways."""
    given = source(size)
    images = torch.randn(batch, 3, size.image, size.image, generator=torch.Generator().manual_seed(1)).to(device)
    amp = device.type == 'cuda'
    cases = [training(name, make(given), images, amp) for name, make in WAYS.items() if name not in PEERS]
    goals = [Target(own, peer, 1.0, what) for what in ('time', 'peak') for own in (OURS, WHOLE)
             for peer in (PEFT, MMPRETRAIN)]
    goals.append(Target(OURS, FLOOR, 1.05))
    title = f'{size.name}, batch {batch}: a training step, LoRA of rank {size.rank} on q and v'
    tolerance = 2e-2 if amp else 1e-4
    return Comparison(title, cases, FLOOR, OURS, tolerance, rounds=rounds, warm_up=1, targets=goals, absent=PEERS)


def growing(size: Size, name: str, sizes: Sequence[int], device: torch.device, rounds: int) -> Growth:
    """Return a step of ours with a growing batch or rank."""
    cases = {}
    for n in sizes:
        given = source(replace(size, rank=n) if name == 'rank' else size)
        batch = n if name == 'batch' else 1
        images = torch.randn(batch, 3, size.image, size.image, generator=torch.Generator().manual_seed(1)).to(device)
        cases[n] = training(f'{name} {n}', by_mmlora(given), images, device.type == 'cuda')
    more = '' if name == 'batch' else ', batch 1'
    return Growth(f'{size.name}{more}: a training step of ours, growing {name}', name, cases, rounds)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare the ways at the batches that a machine takes, and let batch and rank grow."""
    size, rounds = (TINY, 2) if quick else (BASE, 3)
    batches = (2,) if quick else (64, 256) if device.type == 'cuda' else (4,)
    for batch in batches:
        yield side_by_side(size, batch, device, rounds)
    sizes = {'batch': (1, 2) if quick else (1, 2, 4), 'rank': (1, 2) if quick else (4, 16, 128)}
    for name, values in sizes.items():
        yield growing(size, name, values, device, 2)
