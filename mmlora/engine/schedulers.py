"""The learning rates of the published RLRR code (CVPR 2024, arXiv 2403.19067), epoch by epoch.

That code steps timm's schedulers (0.9.8) at the end of each epoch with the number of the epoch that ends, so that
epoch e runs at the rate that is meant for e - 1, and the first rate is used twice. mmengine's LinearLR with
CosineAnnealingLR, and CosineRestartLR, come near but do not equal it: timm's cosine is not shifted by the warm-up, and
goes on at its smallest rate after its end.
"""

import math
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin

from ..registry import PARAM_SCHEDULERS, register


def warmup_cosine(step: int, base: float, steps: int, warmup: int, warmup_lr: float, eta_min: float) -> float:
    """Return a linear warm-up, then a cosine that counts from step 0, then its minimum.

    Args:
        step: Step, from 0.
        base: Learning rate at the end of the warm-up.
        steps: Steps until the cosine is at its minimum.
        warmup: Steps of the warm-up; from there on the cosine, which has fallen by then.
        warmup_lr: Learning rate at step 0.
        eta_min: Smallest learning rate, and that after the end.
    """
    if step < warmup:
        return warmup_lr + step * (base - warmup_lr) / warmup
    if step < steps:
        return eta_min + 0.5 * (base - eta_min) * (1 + math.cos(math.pi * step / steps))
    return eta_min


def cosine_restarts(step: int, base: float, period: int, factor: int, eta_min: float) -> float:
    """Return a cosine that starts again after each period.

    Args:
        step: Step, from 0.
        base: Learning rate at each start.
        period: Steps of the first period.
        factor: Each period is so many times as long as the one before.
        eta_min: Learning rate at the end of a period.
    """
    while step >= period:
        step -= period
        period *= factor
    return eta_min + 0.5 * (base - eta_min) * (1 + math.cos(math.pi * step / period))


class _LateLR(LRSchedulerMixin, _ParamScheduler):
    """A learning rate that is a function of the step before the present one."""

    def _get_value(self) -> list[float]:
        return [self.curve(max(self.last_step - 1, 0), base) for base in self.base_values]

    def curve(self, step: int, base: float) -> float:
        """Return the learning rate that is meant for a step."""
        raise NotImplementedError


@register(PARAM_SCHEDULERS)
class LateWarmupCosineLR(_LateLR):
    """Warm-up and cosine of the published VTAB-1k and FGVC runs of RLRR, one step late.

    Args:
        optimizer: The optimizer.
        T_max: Epochs (or iterations) until the cosine is at its minimum. The published runs go on for 10 epochs more.
        warmup: Epochs of the warm-up, less than ``T_max``.
        warmup_lr: Learning rate at the beginning, of all parameter groups.
        eta_min: Smallest learning rate.
        **kwargs: ``begin``, ``end``, ``last_step``, ``by_epoch`` and ``verbose`` of mmengine's schedulers.

    Raises:
        ValueError: The warm-up is negative or not shorter than the schedule.
    """

    def __init__(
        self,
        optimizer: Any,
        T_max: int,
        warmup: int = 10,
        warmup_lr: float = 1e-7,
        eta_min: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        if not 0 <= warmup < T_max:
            raise ValueError(f'warmup must lie in 0..{T_max - 1} for T_max={T_max}, got {warmup}')
        self.T_max, self.warmup = T_max, warmup
        self.warmup_lr, self.eta_min = warmup_lr, eta_min
        super().__init__(optimizer, **kwargs)

    def curve(self, step: int, base: float) -> float:
        """Return the learning rate that is meant for a step; see :func:`warmup_cosine`."""
        return warmup_cosine(step, base, self.T_max, self.warmup, self.warmup_lr, self.eta_min)


@register(PARAM_SCHEDULERS)
class LateCosineRestartLR(_LateLR):
    """Cosine with restarts of the published FGVC runs of RLRR with augmentation, and on CUB and Dogs, one step late.

    Args:
        optimizer: The optimizer.
        period: Epochs (or iterations) of the first period, at least 1.
        factor: Each period is so many times as long as the one before, at least 1.
        eta_min: Learning rate at the end of a period.
        **kwargs: ``begin``, ``end``, ``last_step``, ``by_epoch`` and ``verbose`` of mmengine's schedulers.

    Raises:
        ValueError: The period or the factor is below 1.
    """

    def __init__(self, optimizer: Any, period: int, factor: int = 1, eta_min: float = 0.0, **kwargs: Any) -> None:
        for name, value in dict(period=period, factor=factor).items():
            if value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        self.period, self.factor, self.eta_min = period, factor, eta_min
        super().__init__(optimizer, **kwargs)

    def curve(self, step: int, base: float) -> float:
        """Return the learning rate that is meant for a step; see :func:`cosine_restarts`."""
        return cosine_restarts(step, base, self.period, self.factor, self.eta_min)
