"""A training loop without steps, for models that need no more than what they do before the first one."""

from typing import Any

from mmengine.runner import Runner

from ..registry import LOOPS, register
from .loops import EpochTrainLoop


@register(LOOPS)
class TrainingFreeLoop(EpochTrainLoop):
    """One epoch without a step: checkpoint, validation and records are those of any other run.

    ``StartTrainingHook`` lets the model look at the training images.

    Args:
        runner: The runner.
        dataloader: The training images.
        **kwargs: ``val_begin`` and ``val_interval``.
    """

    def __init__(self, runner: Runner, dataloader: Any, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, max_epochs=1, **kwargs)

    def run_epoch(self) -> None:
        """End the epoch as soon as it has begun."""
        self.runner.call_hook('before_train_epoch')
        self._iter = self._max_iters
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
