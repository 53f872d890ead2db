"""A training loop without steps, for models that need no more than what they do before the first one."""

from typing import Any

from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import Runner

from ..registry import LOOPS, register
from .loops import EpochTrainLoop


@register(LOOPS)
class TrainingFreeLoop(EpochTrainLoop):
    """One epoch of one iteration in which nothing is stepped; checkpoint, validation and records are those of any run.

    ``StartTrainingHook`` lets the model look at the training images. The checkpoint is ``epoch_1.pth``, or
    ``iter_1.pth`` where the checkpoint hook counts iterations.

    Args:
        runner: The runner.
        dataloader: The training images.
        **kwargs: ``val_begin`` and ``val_interval``.

    Raises:
        ValueError: Weights are averaged.
    """

    def __init__(self, runner: Runner, dataloader: Any, **kwargs: Any) -> None:
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ValueError('there are no steps whose weights could be averaged, and the checkpoint would hold the '
                             'model as it was before it has seen the training images: leave EMAHook out')
        super().__init__(runner, dataloader, max_epochs=1, **kwargs)
        self._max_iters = 1

    def run_epoch(self) -> None:
        """End the epoch as soon as it has begun."""
        self.runner.call_hook('before_train_epoch')
        self._iter = 1
        self.runner.call_hook('after_train_epoch')
        self._iter = 0  # as after the only iteration, before it is counted
        for hook in self.runner.hooks:
            if isinstance(hook, CheckpointHook):  # saves here where it counts iterations
                hook.after_train_iter(self.runner, 0)
        self._epoch, self._iter = 1, 1
