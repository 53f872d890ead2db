"""Train the LoRAs of several tasks at once over one frozen backbone.

The images of all tasks go through the backbone in one batch, each with the LoRA of its task. The loss is the sum of the
tasks' means, and each task has an optimizer, a schedule and a clipping of its own, so that a task learns what it would
learn alone, whatever the others do and how long. The backbone stays in evaluation mode.

On a CPU a step of many tasks goes through the backbone in several passes, some tasks at a time: batches that leave the
caches cost more than a pass saves, and memory besides.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from torch import Tensor

from ..adapters import LoRAWeights, Member, adapter_parameter_names, attach_bank, detach_bank, draw_lora, freeze, route
from ..adapters.banked import find_banks, routed, take_adapter
from ..adapters.shared_a import shared_a_generator
from ..adapters.targets import linear_names, select
from ..io.lora_folder import Head
from ..progress import ProgressLine, close_line, open_line
from ..randomness import derive_seed
from .hub_heads import HEADS
from .hub_tasks import HubImages, Part, Ref, Task, load_images, steps

CPU_IMAGES = 128
"""Images of a pass on a CPU; found by measurement: 512 of 32 px in one pass take a quarter longer than in four."""


@dataclass(frozen=True)
class Frozen:
    """What all LoRAs of a hub share.

    Attributes:
        backbone: Gives a tuple whose last entry is ``(B, D)``, or what the neck takes.
        preprocessor: Normalises a batch.
        neck: Takes and gives a tuple; None where there is none.
    """

    backbone: nn.Module
    preprocessor: nn.Module
    neck: nn.Module | None = None

    def features(self, data: Mapping[str, Any]) -> Tensor:
        """Return the features of a batch, ``(B, D)``.

        Raises:
            ValueError: They are of another shape.
        """
        dtype = next(self.backbone.parameters()).dtype
        out = self.backbone(self.preprocessor(dict(data))['inputs'].to(dtype))
        feature = (self.neck(out) if self.neck is not None else out)[-1]
        if feature.ndim != 2:
            raise ValueError(f'the features of {type(self.backbone).__name__} are {tuple(feature.shape)}, where (B, D) '
                             "is needed: give the model neck=dict(type='GlobalAveragePooling')")
        return feature


@dataclass(frozen=True)
class Recipe:
    """How a LoRA is trained.

    Attributes:
        targets: Patterns of the adapted layers.
        rank: Of each pair of factors.
        slices: Adapted slices of a fused projection, or None.
        scaling: Factor of the change.
        optimizer: Config of the optimizer.
        schedulers: Configs of the schedules of its rate.
        max_norm: Limit of the norm of all gradients of a task, or None.
        batch_size: Images of a task in a step.
        max_epochs: Passes over the images of a task.
        seed: Of the hub.
        shared_a: Whether all LoRAs have one A, which stays as it is drawn from the seed, so that B alone learns.
        head: A name in :data:`mmlora.apis.hub_heads.HEADS`.
    """

    targets: Sequence[str]
    rank: int
    optimizer: Mapping[str, Any]
    schedulers: Sequence[Mapping[str, Any]] = ()
    slices: Sequence[str] | None = 'qv'
    scaling: float = 1.0
    max_norm: float | None = None
    batch_size: int = 64
    max_epochs: int = 1
    seed: int = 0
    shared_a: bool = False
    head: str = 'linear'


@dataclass(frozen=True)
class Trained:
    """A LoRA that was trained.

    Attributes:
        task: What it learned.
        weights: The LoRA.
        head: Its head.
        metrics: ``accuracy/top1`` on the images for validation in percent, and ``loss``, the mean over the images of
            the last epoch.
    """

    task: Task
    weights: LoRAWeights
    head: Head
    metrics: dict[str, float]


def train_tasks(
    frozen: Frozen, images: HubImages, tasks: Sequence[Task], recipe: Recipe, num_workers: int = 0
) -> list[Trained]:
    """Train a LoRA and a head for each task, all at once.

    Args:
        frozen: The backbone is plain before and afterwards.
        images: All images.
        tasks: At least one.
        recipe: How.
        num_workers: Processes that prepare images.

    Returns:
        One for each task.

    Raises:
        ValueError: A setting does not fit the backbone.
    """
    trained = {place: snapshot() for place, epoch, snapshot in train_epochs(frozen, images, tasks, recipe, num_workers)
               if epoch == recipe.max_epochs - 1}
    return [trained[place] for place in range(len(tasks))]


def train_epochs(
    frozen: Frozen, images: HubImages, tasks: Sequence[Task], recipe: Recipe, num_workers: int = 0
) -> Iterator[tuple[int, int, Callable[[], Trained]]]:
    """Train as :func:`train_tasks` does, and tell of the end of each epoch of each task.

    Args:
        frozen: The backbone is plain before, and after the last epoch or ``close()``.
        images: All images.
        tasks: At least one.
        recipe: How.
        num_workers: Processes that prepare images.

    Yields:
        The place of the task among the tasks, its epoch, from 0, and a function that validates and returns what it has
        learned so far; to be called before the next one is asked for.

    Raises:
        ValueError: A setting does not fit the backbone.
    """
    backbone = frozen.backbone
    backbone.eval()  # mmpretrain's own return None
    width = _feature_width(frozen, images, tasks[0])
    attach_bank(backbone, [fresh_lora(backbone, recipe, task) for task in tasks])
    longest = max(-(-len(task.train) // recipe.batch_size) for task in tasks)
    line = ProgressLine('step', longest * recipe.max_epochs)
    open_line(line)
    try:
        freeze(backbone, _learning(adapter_parameter_names(backbone), recipe))
        learners = [_Learner(frozen, place, task, width, recipe) for place, task in enumerate(tasks)]
        banks = list(find_banks(backbone).values())
        passes = _Passes(tasks, recipe, CPU_IMAGES if next(backbone.parameters()).device.type == 'cpu' else None)
        loader = load_images(images, _Requests(passes), num_workers)
        for (step, is_last), data in zip(passes, loader, strict=True):
            for bank in banks:
                bank.zero_grad()
            sizes = [len(part.images) for part in step]
            with routed(banks, [part.place for part in step for _ in part.images]):
                features = frozen.features(data)
            losses = [learners[part.place].loss(part.images, own)
                      for part, own in zip(step, features.split(sizes), strict=True)]
            torch.stack(losses).sum().backward()
            for part, loss in zip(step, losses, strict=True):
                learners[part.place].step(loss.item(), len(part.images), part.epoch, part.ends)
            first = learners[step[0].place]
            line.update(line.done + is_last, epoch=f'{step[0].epoch + 1}/{recipe.max_epochs}', loss=first.mean_loss())
            for part in step:
                if part.ends:
                    learner = learners[part.place]
                    yield part.place, part.epoch, partial(_snapshot, frozen, images, learner, recipe, num_workers)
    finally:
        close_line(line)
        detach_bank(backbone)


def fresh_lora(backbone: nn.Module, recipe: Recipe, task: Task) -> LoRAWeights:
    """Return how the LoRA of a task starts.

    Raises:
        ValueError: A pattern means no layer, or the rank or the slices do not fit one.
    """
    sites = select(recipe.targets, linear_names(backbone))
    generator = shared_a_generator(recipe.seed) if recipe.shared_a else torch.Generator().manual_seed(
        derive_seed('hub lora', recipe.seed, task.number))
    return draw_lora(backbone, sites, recipe.rank, recipe.slices, recipe.scaling, generator)


class _Learner:
    """Head, optimizer and schedules of one task."""

    def __init__(self, frozen: Frozen, place: int, task: Task, width: int, recipe: Recipe) -> None:
        like = next(frozen.backbone.parameters())
        generator = torch.Generator().manual_seed(derive_seed('hub head', recipe.seed, task.number))
        self.task, self.place = task, place
        self.head = HEADS[recipe.head](width, len(task.classes), like, generator)
        self.labels = torch.tensor(task.train_labels, device=like.device)
        self.member, self.max_norm = Member(frozen.backbone, place), recipe.max_norm
        own = self.member.parameters
        self.parameters = [*(own[name] for name in _learning(own, recipe)), *self.head.parameters()]
        self.optimizer = OPTIMIZERS.build({**recipe.optimizer, 'params': self.parameters})
        length = -(-len(task.train) // recipe.batch_size)
        self.schedulers = [_build_schedule(one, self.optimizer, length) for one in recipe.schedulers]
        self._losses: tuple[int, float, int] = (0, 0.0, 0)

    def loss(self, places: Sequence[int], features: Tensor) -> Tensor:
        return self.head.loss(features, self.labels[list(places)])

    def step(self, loss: float, count: int, epoch: int, ends: bool) -> None:
        self.member.take_gradients()
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.optimizer.step()
        for parameter in self.head.parameters():
            parameter.grad = None
        for scheduler in self.schedulers:
            if ends or not scheduler.by_epoch:
                scheduler.step()
        at, total, seen = self._losses
        self._losses = (epoch, loss * count, count) if epoch != at else (at, total + loss * count, seen + count)

    def mean_loss(self) -> float:
        _, total, seen = self._losses
        return total / max(seen, 1)


@dataclass(frozen=True)
class _Passes:
    """What goes through the backbone at once: parts of a step with at most so many images, and whether they end it."""

    tasks: Sequence[Task]
    recipe: Recipe
    limit: int | None

    def __iter__(self) -> Iterator[tuple[list[Part], bool]]:
        recipe = self.recipe
        for step in steps(self.tasks, recipe.seed, recipe.batch_size, recipe.max_epochs):
            count = len(step) if self.limit is None else max(1, self.limit // recipe.batch_size)
            for start in range(0, len(step), count):
                yield step[start : start + count], start + count >= len(step)


@dataclass(frozen=True)
class _Requests:
    """The images of each pass."""

    passes: _Passes

    def __iter__(self) -> Iterator[list[tuple[Ref, int, int]]]:
        tasks, recipe = self.passes.tasks, self.passes.recipe
        for step, _ in self.passes:
            yield [(tasks[part.place].train[i], _image_seed(recipe, tasks[part.place]), part.epoch)
                   for part in step for i in part.images]


@torch.no_grad()
def _snapshot(frozen: Frozen, images: HubImages, learner: _Learner, recipe: Recipe, workers: int) -> Trained:
    """Return what a task has learned so far, with its accuracy in percent."""
    task, place = learner.task, learner.place
    support = None
    if learner.head.needs_support:
        support = torch.cat(list(_features(frozen, images, place, task, task.train, recipe, workers)))
    head = learner.head.ended(support, learner.labels)
    hits = [F.linear(features.to(head.weight.dtype), *head).argmax(1).cpu()
            for features in _features(frozen, images, place, task, task.val, recipe, workers)]
    correct = torch.cat(hits) == torch.tensor(task.val_labels)
    return Trained(task, take_adapter(frozen.backbone, place), head,
                   {'accuracy/top1': 100 * correct.double().mean().item(), 'loss': learner.mean_loss()})


def _features(
    frozen: Frozen, images: HubImages, place: int, task: Task, refs: Sequence[Ref], recipe: Recipe, workers: int
) -> Iterator[Tensor]:
    """Give the features of images of a task with its LoRA, batch by batch."""
    seed = _image_seed(recipe, task)
    batches = list(_chunks([(ref, seed, 0) for ref in refs], recipe.batch_size))
    with route(frozen.backbone, place):
        for data in load_images(images, batches, workers):
            yield frozen.features(data)


@torch.no_grad()
def _feature_width(frozen: Frozen, images: HubImages, task: Task) -> int:
    (data,) = load_images(images, [[(task.train[0], 0, 0)]])
    return frozen.features(data).shape[1]


def _build_schedule(config: Mapping[str, Any], optimizer: torch.optim.Optimizer, epoch_length: int) -> Any:
    config = dict(config)
    if not config.pop('convert_to_iter_based', False):
        return PARAM_SCHEDULERS.build({**config, 'optimizer': optimizer})
    kind = PARAM_SCHEDULERS.get(config.pop('type'))
    return kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=epoch_length, **config)


def _learning(names: Iterable[str], recipe: Recipe) -> list[str]:
    """Return which of the factors learn: with a shared A, those of B."""
    return [name for name in names if not recipe.shared_a or '.lora_B' in name]


def _image_seed(recipe: Recipe, task: Task) -> int:
    return derive_seed('hub images', recipe.seed, task.number)


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
