"""Build banks of LoRAs over many tasks. What ``tools/build_lora_bank.py`` calls.

The first stage of ICM-LoRA (IJCAI 2025, arXiv 2501.17635): one fine-tuning for each task, of which late checkpoints are
kept. Here the tasks are those of a hub (:mod:`.hub_tasks`): classes drawn from any set of images, as many tasks as
wanted, several of them trained at once over one frozen backbone. A task follows from the seed and its number, so that
banks that were stopped go on where they were.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..adapters.lora_spec import LoRASpec, lora_tensors
from ..io.atomic import remove_leftovers
from ..io.hub import member_name
from ..io.lora_banks import INDEX, SHARED, LoRABanks
from ..models.backbones.ranks import pretrained_checkpoint
from ..progress import note, tidy_terminal, tracked
from .hub_members import build_frozen, hub_recipe
from .hub_plan import HubPlan, hub_identity, settle_hub
from .hub_tasks import HubImages, Task, build_sources, draw_task
from .hub_training import Frozen, Recipe, Trained, fresh_lora, train_epochs
from .sweep_lock import lock_folder
from .sweep_plan import differences

LOCK = '.banks.lock'
METRICS = {'accuracy/top1': 'greater', 'loss': 'less'}
"""Metric of a checkpoint -> which is better. The loss is that of the training, of the last epoch."""


@dataclass(frozen=True)
class BankPlan:
    """The entry ``bank`` of a config.

    Attributes:
        start_epoch: The first epoch, from 1, after which a checkpoint is kept.
        interval: Epochs from one checkpoint to the next.
        max_keep: Only the best so many of a task stay; None keeps all.
        metric: Ranks the checkpoints: ``'accuracy/top1'`` of the validation, or ``'loss'``.
    """

    start_epoch: int = 1
    interval: int = 1
    max_keep: int | None = None
    metric: str = 'accuracy/top1'

    def __post_init__(self) -> None:
        for name in ('start_epoch', 'interval', 'max_keep'):
            value = getattr(self, name)
            if (value is not None or name != 'max_keep') and (
                    isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f'bank.{name} must be a whole number of at least 1, got {value!r}')
        if self.metric not in METRICS:
            raise ValueError(f'bank.metric must be one of {sorted(METRICS)}, got {self.metric!r}')

    def keeps(self, epoch: int) -> bool:
        """Say whether a checkpoint is kept after an epoch, from 1."""
        return epoch >= self.start_epoch and (epoch - self.start_epoch) % self.interval == 0

    def count(self, max_epochs: int) -> int:
        """Return how many checkpoints a finished task has."""
        return min(sum(map(self.keeps, range(1, max_epochs + 1))), self.max_keep or max_epochs)


@dataclass(frozen=True)
class BankReport:
    """What was built.

    Attributes:
        banks: The banks.
        built: Tasks that were trained in this run.
        seconds: How long that took.
    """

    banks: LoRABanks
    built: int
    seconds: float

    @property
    def loras_per_minute(self) -> float:
        """Trained tasks by time; each leaves several checkpoints."""
        return 60 * self.built / self.seconds if self.built else 0.0


def settle_banks(
    cfg: Config, num_tasks: int | None = None, together: int | None = None
) -> tuple[Config, HubPlan, BankPlan]:
    """Return the config of banks with everything settled, and its plans.

    Args:
        cfg: The config of a hub with an entry ``bank``; it is not changed.
        num_tasks: Takes the place of ``hub.num_loras``.
        together: Takes the place of ``hub.together``.

    Raises:
        ValueError: An entry is missing or unknown, or no checkpoint would be kept.
    """
    given = dict(cfg.get('bank') or {})
    unknown = sorted(set(given) - {one.name for one in fields(BankPlan)})
    if unknown:
        raise ValueError(f'bank has no {unknown}: it has {[one.name for one in fields(BankPlan)]}')
    bank, cfg = BankPlan(**given), settle_hub(cfg, num_tasks, together)
    if not bank.count(cfg.train_cfg.max_epochs):
        raise ValueError(f'bank.start_epoch={bank.start_epoch} lies behind the last epoch, max_epochs='
                         f'{cfg.train_cfg.max_epochs}: no checkpoint would be kept')
    return cfg, HubPlan(**cfg.hub), bank


def banks_to_do(cfg: Config, folder: str | os.PathLike) -> list[list[int]]:
    """Return the groups of numbers of tasks that are trained together and of which one is not whole.

    Args:
        cfg: A settled config.
        folder: The banks.

    Raises:
        ValueError: The folder holds banks that were made by other settings; the differences are named.
    """
    plan, bank = HubPlan(**cfg.hub), BankPlan(**(cfg.get('bank') or {}))
    there: set[str] = set()
    if (Path(folder) / INDEX).is_file():
        banks = LoRABanks.open(folder)
        changed = differences(banks.about.get('recipe', {}), _identity(cfg, bank))
        if changed:
            raise ValueError(f'{folder} was made by other settings: {"; ".join(changed[:5])}. Give another folder '
                             '(--work-dir), or move this one away')
        count = bank.count(cfg.train_cfg.max_epochs)
        there = {task.name for task in banks.tasks if len(task.checkpoints) == count}
    groups = [list(range(first, min(first + plan.together, plan.num_loras)))
              for first in range(0, plan.num_loras, plan.together)]
    return [group for group in groups if any(member_name(number) not in there for number in group)]


@tidy_terminal()
def build_banks(
    cfg: Config,
    folder: str | os.PathLike,
    num_tasks: int | None = None,
    together: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> BankReport:
    """Train the tasks whose banks are not whole yet, and keep their checkpoints.

    Args:
        cfg: The config; it is not changed.
        folder: The banks. They are written by one process at a time.
        num_tasks: Takes the place of ``hub.num_loras``. More than there are adds tasks.
        together: Takes the place of ``hub.together``.
        device: Where the backbone is; None takes a GPU where there is one.
        say: Gets a line about each group of tasks.

    Raises:
        ValueError: The config cannot be used, the folder holds banks of other settings or weights, or a training has
            diverged.
        RuntimeError: Another process writes into the folder.
    """
    cfg, plan, bank = settle_banks(cfg, num_tasks, together)
    folder = Path(folder)
    with lock_folder(folder, LOCK):
        remove_leftovers(folder, [INDEX, SHARED])
        groups = banks_to_do(cfg, folder)
        if not groups:
            return BankReport(LoRABanks.open(folder), 0, 0.0)
        frozen, digest = build_frozen(cfg, device)
        images, recipe, start = HubImages(build_sources(plan.sources), plan.cache), hub_recipe(cfg, plan), time.time()
        banks, built = None, 0
        for group in tracked(groups, 'group of tasks'):
            tasks = [draw_task(images.sources, number, recipe.seed, plan.n_way, plan.train_fraction, plan.across)
                     for number in group]
            banks = banks or _open(cfg, folder, bank, frozen, recipe, tasks[0], digest)
            kept = [(epoch + 1, snapshot()) for _, epoch, snapshot in
                    train_epochs(frozen, images, tasks, recipe, plan.num_workers) if bank.keeps(epoch + 1)]
            images.forget()
            failures = [failure for epoch, one in kept if (failure := _add(banks, bank, recipe, epoch, one))]
            if failures:
                raise failures[0]
            built += len(tasks)
            note(accuracy=sum(one.metrics['accuracy/top1'] for _, one in kept[-len(tasks):]) / len(tasks))
            if say:
                best = [banks.task(member_name(task.number)).checkpoints[0].metric for task in tasks]
                rate = 60 * built / (time.time() - start)
                say(f'{member_name(group[0])} to {member_name(group[-1])}: {bank.metric} '
                    f'{min(best):.1f} to {max(best):.1f}; {rate:.1f} tasks a minute')
        return BankReport(banks, built, time.time() - start)


def _open(
    cfg: Config, folder: Path, bank: BankPlan, frozen: Frozen, recipe: Recipe, task: Task, digest: str
) -> LoRABanks:
    """Return the banks, made where there are none, whose spec is that of what is trained."""
    fresh = fresh_lora(frozen.backbone, recipe, task)
    spec = LoRASpec.of_weights(fresh, digest)
    if (folder / INDEX).is_file():
        banks = LoRABanks.open(folder)
        banks.full_spec.check_same(spec, 'what the config trains')
        return banks
    factors, shared = 'AB', None
    if recipe.shared_a:
        keys = spec.only('A').keys
        factors, shared = 'B', {key: value for key, value in lora_tensors(fresh).items() if key in keys}
    preparation = cfg.get('data_preprocessor') or {}
    return LoRABanks.create(
        folder, spec, factors, shared, bank.metric, METRICS[bank.metric],
        base=pretrained_checkpoint(cfg.model.backbone.init_cfg), recipe=_identity(cfg, bank),
        normalization=dict(
            mean=list(preparation.get('mean') or [0, 0, 0]), std=list(preparation.get('std') or [1, 1, 1]),
            to_rgb=bool(preparation.get('to_rgb', False))),
    )  # fmt: skip


def _add(banks: LoRABanks, bank: BankPlan, recipe: Recipe, epoch: int, one: Trained) -> ValueError | None:
    """Add a checkpoint. One that has diverged does not take along those that learned beside it."""
    task = one.task
    steps = epoch * -(-len(task.train) // recipe.batch_size)
    try:
        banks.add(member_name(task.number), lora_tensors(one.weights), steps, one.metrics[bank.metric], one.head,
                  bank.max_keep, task.classes, class_ids=list(task.class_ids), source=task.source, number=task.number,
                  seed=recipe.seed, train_images=len(task.train), val_images=len(task.val))
    except ValueError as error:
        return error
    return None


def _identity(cfg: Config, bank: BankPlan) -> Mapping[str, Any]:
    """Return what decides on the banks, as plain data for JSON."""
    return dict(hub_identity(cfg), bank={one.name: getattr(bank, one.name) for one in fields(bank)})
