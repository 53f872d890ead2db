"""Seeds each training step, so that dropout and mixing of batches are a function of (seed, iteration, rank)."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...randomness import derive_seed, seed_all
from ...registry import HOOKS, register


@register(HOOKS)
class StepSeedHook(Hook):
    """Seed torch, numpy and Python's ``random`` before each training iteration.

    Args:
        seed: The seed; by default that of the runner.
    """

    priority = 'HIGHEST'  # Whatever another hook draws in the same step follows from the seed, too.

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the step; see the class."""
        seed = runner.seed if self.seed is None else self.seed
        seed_all(derive_seed('step', seed, runner.iter, runner.rank))
