"""The learning rate of the meta-training of LoRA-Recycle (Hu et al., CVPR 2025, section 5): warm-up and cosine, again.

In each cycle the rate rises in a straight line from its smallest value to the largest, then falls by a cosine::

    c = step mod period        c < warmup:  min + (max - min) c / warmup
                               else:        min + (max - min) (1 + cos(pi (c - warmup) / (period - warmup))) / 2
"""

import math
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin

from ..registry import PARAM_SCHEDULERS, register


def periodic_warmup_cosine(step: int, peak: float, least: float, period: int, warmup: int) -> float:
    """Return the rate of a step, from 0.

    Args:
        step: Step, from 0.
        peak: Largest rate, at step ``warmup`` of a cycle.
        least: Smallest rate, at step 0 of a cycle.
        period: Steps of a cycle.
        warmup: Steps that rise, fewer than those of a cycle.
    """
    place = step % period
    if place < warmup:
        return least + (peak - least) * place / warmup
    return least + (peak - least) * (1 + math.cos(math.pi * (place - warmup) / (period - warmup))) / 2


@register(PARAM_SCHEDULERS)
class PeriodicWarmupCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up and cosine in each cycle; the largest rate is that of the optimizer.

    Args:
        optimizer: The optimizer.
        period: Steps of a cycle: iterations with ``by_epoch=False``, else epochs.
        warmup: Steps of a cycle that rise, fewer than all.
        min_ratio: Smallest rate over the largest, from 0 to 1.
        **kwargs: ``begin``, ``end``, ``last_step``, ``by_epoch`` and ``verbose`` of mmengine's schedulers.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self, optimizer: Any, period: int = 100, warmup: int = 25, min_ratio: float = 0.01, **kwargs: Any
    ) -> None:
        if period < 1 or not 0 <= warmup < period:
            raise ValueError(f'period={period} must be at least 1, and warmup={warmup} must lie in 0..{period - 1}')
        if not 0 <= min_ratio <= 1:
            raise ValueError(f'min_ratio must lie in 0..1, got {min_ratio!r}')
        self.period, self.warmup, self.min_ratio = period, warmup, min_ratio
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> list[float]:
        return [periodic_warmup_cosine(self.last_step, base, self.min_ratio * base, self.period, self.warmup)
                for base in self.base_values]
