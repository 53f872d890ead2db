"""LoRAs per minute: tasks of a hub trained K at once through banks, and one at a time as an ordinary adapted model."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor

from mmlora.adapters import LoRAWeights, adapt_with, attach_bank, draw_lora, read_lora, route
from mmlora.adapters.targets import linear_names, select
from mmlora.apis.hub_members import build_frozen
from mmlora.apis.hub_plan import HubPlan, settle_hub
from mmlora.apis.hub_tasks import HubImages, Task, build_sources, draw_task, load_images, steps
from mmlora.apis.hub_training import Frozen, Recipe, train_tasks
from mmlora.randomness import derive_seed

from ..core import Case, Comparison, Growth, remembered
from ..targets import Target
from .steps import frozen_tensors, step

ABOUT = """
LoRAs a minute: tasks of a hub trained K at once through banks, and one at a time as an ordinary adapted model. The
factors of all ways are compared. Images are prepared before; a pass over the images for validation is in the time.
The targets are aims: no slower than one at a time.
"""

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'lora_recycle' / 'hub_vit-micro_glyphs-5way.py'
ORDINARY = 'one at a time, no bank'
LORAS, TOGETHER, IMAGES = 64, (1, 4, 16, 64), 10
"""Tasks, tasks at once, and images of a class, of which eight are learned from."""
BATCHES = (8, 2)
GROWING = 64
"""Images of a batch while the adapters in a bank grow."""


def train_ordinary(frozen: Frozen, images: HubImages, task: Task, recipe: Recipe) -> LoRAWeights:
    """Train one task as an ordinary adapted model: what a bank has to equal."""
    def generator(what: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(f'hub {what}', recipe.seed, task.number))

    model = copy.deepcopy(frozen.backbone)
    model.eval()
    sites = select(recipe.targets, linear_names(model))
    layers = adapt_with(model, draw_lora(model, sites, recipe.rank, recipe.slices, recipe.scaling, generator('lora')))
    own, device = replace(frozen, backbone=model), next(model.parameters()).device
    (one,) = load_images(images, [[(task.train[0], 0, 0)]])
    with torch.no_grad():
        width = own.features(one).shape[1]
    head, start = nn.Linear(width, len(task.classes)).to(device), generator('head')
    for parameter in head.parameters():
        drawn = torch.empty(parameter.shape, dtype=torch.float64).uniform_(-(width**-0.5), width**-0.5, generator=start)
        parameter.data.copy_(drawn)
    learned = [p for layer in layers.values() for p in layer.adapter_parameters().values()] + [*head.parameters()]
    optimizer, labels = torch.optim.Adam(learned, lr=recipe.optimizer['lr']), torch.tensor(task.train_labels).to(device)
    batches = steps([task], recipe.seed, recipe.batch_size, recipe.max_epochs)
    requests = [[(task.train[i], 0, part.epoch) for i in part.images]
                for (part,) in steps([task], recipe.seed, recipe.batch_size, recipe.max_epochs)]
    for (part,), data in zip(batches, load_images(images, requests), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(head(own.features(data)), labels[part.images]).backward()
        nn.utils.clip_grad_norm_(learned, recipe.max_norm)
        optimizer.step()
    with torch.no_grad():  # Banks validate, too.
        for start in range(0, len(task.val), recipe.batch_size):
            (data,) = load_images(images, [[(ref, 0, 0) for ref in task.val[start : start + recipe.batch_size]]])
            head(own.features(data)).argmax(1)
    return read_lora(model)


def factors(found: Sequence[LoRAWeights]) -> dict[str, Tensor]:
    """Return the factors of all LoRAs by name."""
    return {f'{end} of {".".join(key)}, LoRA {number}': tensor for number, weights in enumerate(found)
            for key, pair in weights.items() for end, tensor in (('A', pair.a), ('B', pair.b))}


def side_by_side(
    frozen: Frozen, images: HubImages, tasks: Sequence[Task], recipe: Recipe, together: Sequence[int], rounds: int
) -> Comparison:
    """Return the ways to train all tasks."""
    def at_once(count: int) -> list[LoRAWeights]:
        return [one.weights for start in range(0, len(tasks), count)
                for one in train_tasks(frozen, images, tasks[start : start + count], recipe)]

    def one_at_a_time() -> list[LoRAWeights]:
        return [train_ordinary(frozen, images, task, recipe) for task in tasks]

    def case(name: str, train: Callable[[], list[LoRAWeights]]) -> Case:
        return remembered(name, train, factors)

    cases = [case(ORDINARY, one_at_a_time), *(case(f'K = {k}', lambda k=k: at_once(k)) for k in together)]
    count = -(-len(tasks[0].train) // recipe.batch_size)
    title = f'{len(tasks)} LoRAs, {len(tasks[0].classes)} classes, {count} steps of {recipe.batch_size} images each'
    # Adam divides small gradients by small ones: what is rounded otherwise grows over the steps.
    goals = [Target(f'K = {k}', ORDINARY, 1.0) for k in together]
    return Comparison(title, cases, ORDINARY, ORDINARY, 1e-3, rounds=rounds, warm_up=0, targets=goals, peaks=False,
                      long=True, rate=('LoRAs per minute', 60.0 * len(tasks)))


def growing(frozen: Frozen, plan: HubPlan, together: Sequence[int], quick: bool, device: torch.device) -> Growth:
    """Return forward and backward of one batch whose images are shared out among more and more adapters."""
    count, size = (4, 3) if quick else (GROWING, 9)
    x = torch.randn(count, 3, *frozen.backbone.img_size, generator=torch.Generator().manual_seed(1)).to(device)

    def case(k: int) -> Case:
        model = copy.deepcopy(frozen.backbone)
        sites, generator = select(plan.targets, linear_names(model)), torch.Generator().manual_seed(0)
        attach_bank(model, [draw_lora(model, sites, plan.rank, plan.slices, plan.scaling, generator) for _ in range(k)])
        indices = torch.arange(count, device=device) % k

        def features(images: Tensor) -> Tensor:
            with route(model, indices):
                return model(images)[-1]

        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return step(f'K = {k}', features, x, learned, frozen_tensors(model))

    return Growth(f'A step of {count} images through a bank', 'adapters', {k: case(k) for k in together}, size)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare batches of several images, of few, and let the number of adapters grow."""
    cfg = Config.fromfile(CONFIG)
    cfg.hub_sources[0].dataset.update(samples_per_class=3 if quick else IMAGES, serialize_data=False)
    cfg = settle_hub(cfg)
    plan = HubPlan(**cfg.hub)
    frozen, _ = build_frozen(cfg, str(device))
    images = HubImages(build_sources(plan.sources), cache=True)
    loras, together = (2, (1, 2)) if quick else (LORAS, TOGETHER)
    tasks = [draw_task(images.sources, number, cfg.randomness.seed, plan.n_way) for number in range(loras)]
    for task in tasks:
        for ref in [*task.train, *task.val]:
            images[ref, 0, 0]  # Prepared before anything is timed.
    recipe = Recipe(plan.targets, plan.rank, cfg.optim_wrapper.optimizer, slices=plan.slices, scaling=plan.scaling,
                    max_norm=cfg.optim_wrapper.clip_grad.max_norm, max_epochs=1, seed=cfg.randomness.seed)
    for batch in BATCHES[:1] if quick else BATCHES:
        yield side_by_side(frozen, images, tasks, replace(recipe, batch_size=batch), together,
                           2 if batch == BATCHES[0] else 1)
    yield growing(frozen, plan, together, quick, device)
