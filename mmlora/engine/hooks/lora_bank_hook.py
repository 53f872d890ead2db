"""Keeps LoRAs of a training as a bank for a generator of LoRAs."""

from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from mmengine.dist import barrier, master_only
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from ...adapters import read_lora
from ...adapters.lora_spec import LoRASpec, lora_tensors
from ...io.atomic import write_text
from ...io.lora_banks import INDEX, RULES, LoRABanks
from ...io.lora_folder import Head
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..base_weights import base_sha256
from .checkpoint_hook import POINTER

UNFINISHED = 'unfinished'


@register(HOOKS)
class LoRABankHook(Hook):
    """Add late or best LoRAs of a run to banks, after validations, ranked by what these found.

    The banks are one folder for all runs over one backbone, each run a task of it. Where A is frozen
    (``lora_shared_a`` of ``AdaptedBackbone``), the files hold B alone over one A that all runs must share. With
    averaged weights those that were validated are kept.

    Args:
        folder: The banks; made where they are missing.
        task: Name of the task; that of the work directory by default.
        metric: Of the validation; ranks the checkpoints.
        rule: ``'greater'`` or ``'less'``: which is better.
        start: The first epoch, or iteration in a loop by iterations, from which on checkpoints are kept.
        interval: Epochs or iterations between two of them; those between which nothing is validated are left out.
        max_keep: Only the best so many of the run stay; None keeps all.

    Raises:
        ValueError: A number or the rule cannot be used.
    """

    priority = 'ABOVE_NORMAL'  # Before EMAHook puts back the weights that were not validated.

    def __init__(
        self,
        folder: str,
        task: str | None = None,
        metric: str = 'accuracy/top1',
        rule: str = 'greater',
        start: int = 1,
        interval: int = 1,
        max_keep: int | None = None,
    ) -> None:
        for name, value in (('start', start), ('interval', interval), ('max_keep', max_keep)):
            if (value is not None or name != 'max_keep') and (
                    isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f'{name} of LoRABankHook must be a whole number of at least 1, got {value!r}')
        if rule not in RULES:
            raise ValueError(f'rule of LoRABankHook must be one of {tuple(RULES)}, got {rule!r}')
        self.folder, self.task, self.metric, self.rule = Path(folder), task, metric, rule
        self.start, self.interval, self.max_keep = start, interval, max_keep
        self.banks: LoRABanks | None = None

    def before_train(self, runner: Runner) -> None:
        """Open or make the banks, rather than find out after the training that they do not fit.

        Raises:
            ValueError: The run has no validation, the model no LoRA, the banks are those of other LoRAs, or have the
                task already.
        """
        if runner.val_loop is None:
            raise ValueError('LoRABankHook ranks checkpoints by the validation, which this run lacks: give '
                             'val_dataloader, val_cfg and val_evaluator')
        backbone = _backbone(runner)
        weights = read_lora(backbone)
        spec = LoRASpec.of_weights(weights, base_sha256(backbone))
        self.task = self.task or Path(runner.work_dir).resolve().name
        keys = spec.only('A').keys if _a_is_frozen(backbone) else ()
        self._create(spec, {key: value for key, value in lora_tensors(weights).items() if key in keys})
        barrier()  # Of all processes, whether or not they find the banks made already.
        self.banks = LoRABanks.open(self.folder)
        self.banks.full_spec.check_same(spec, 'the model of this run')
        self.banks.check_shared(lora_tensors(weights), 'the model of this run')
        if (self.banks.metric, self.banks.rule) != (self.metric, self.rule):
            raise ValueError(f'{self.folder} ranks by {self.banks.metric!r}, {self.banks.rule!r}, this run by '
                             f'{self.metric!r}, {self.rule!r}: give the hook the same')
        if not runner._resume and any(task.name == self.task for task in self.banks.tasks):
            if not self._is_left_by(runner):
                raise ValueError(f'{self.folder} has a task {self.task!r} already: give the hook another task=..., or '
                                 'another folder')
            barrier()
            self._remove()

    def after_train(self, runner: Runner) -> None:
        """Note that the task is whole."""
        self._mark.unlink(missing_ok=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add what was validated.

        Raises:
            ValueError: The metric is not among those of the validation, or the LoRA has diverged.
        """
        if self.banks is None:  # A validation without a training.
            return
        now = runner.iter if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.epoch
        if now < self.start or (now - self.start) % self.interval:
            return
        if self.metric not in (metrics or {}):
            raise ValueError(f'metric={self.metric!r} of LoRABankHook is not among those of the validation: '
                             f'{sorted(metrics or {})}')
        self._add(runner, float(metrics[self.metric]))

    @property
    def _mark(self) -> Path:
        """A file that says which run has not ended yet; until then its LoRAs may be made anew."""
        return self.folder / self.task / UNFINISHED

    def _is_left_by(self, runner: Runner) -> bool:
        """Say whether the task is that of a run in this work directory that was killed before its first checkpoint."""
        work_dir = Path(runner.work_dir).resolve()
        mark = self._mark.read_text(encoding='utf-8') if self._mark.is_file() else None
        return mark == str(work_dir) and not (work_dir / POINTER).is_file()

    @master_only
    def _remove(self) -> None:
        self.banks.remove(self.task)

    @master_only
    def _create(self, spec: LoRASpec, shared: dict[str, torch.Tensor]) -> None:
        if not (self.folder / INDEX).is_file():
            LoRABanks.create(self.folder, spec, 'B' if shared else 'AB', shared, self.metric, self.rule)

    @master_only
    def _add(self, runner: Runner, metric: float) -> None:
        model, classes = unwrap_model(runner.model), _classes(runner)
        write_text(self._mark, str(Path(runner.work_dir).resolve()))
        self.banks.add(self.task, lora_tensors(read_lora(_backbone(runner))), runner.iter, metric, _head(model),
                       self.max_keep, classes, source=str(runner.cfg.get('dataset_name') or runner.experiment_name))


def _backbone(runner: Runner) -> nn.Module:
    model = unwrap_model(runner.model)
    return getattr(model, 'backbone', model)


def _a_is_frozen(backbone: nn.Module) -> bool:
    return not any(value.requires_grad for name, value in backbone.named_parameters() if '.lora_A' in name)


def _classes(runner: Runner) -> tuple[str, ...]:
    return tuple(runner.val_loop.dataloader.dataset.metainfo.get('classes') or ())


def _head(model: nn.Module) -> Head | None:
    fc: Any = getattr(getattr(model, 'head', None), 'fc', None)
    if not isinstance(fc, nn.Linear) or fc.bias is None:
        return None
    return Head(fc.weight.detach(), fc.bias.detach())
