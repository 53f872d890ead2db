"""Training loops that resume in the middle of an epoch by moving the sampler."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader

from ..registry import LOOPS, register
from .hooks.checkpoint_hook import VALIDATED


def begin_epoch(dataloader: DataLoader, epoch: int, start: int = 0) -> Iterator[Any]:
    """Iterate over the batches of an epoch from the given one on.

    Where the sampler has ``set_start``, nothing is read that is not used. Otherwise the batches before the start are
    read and dropped, which a warning says.

    Args:
        dataloader: The loader.
        epoch: The pass over the data, from 0.
        start: The first batch wanted.
    """
    batches, sampler = dataloader.batch_sampler, sampler_of(dataloader)
    if hasattr(sampler, 'set_epoch'):
        sampler.set_epoch(epoch)
    if not start:
        return iter(dataloader)
    if type(batches) is BatchSampler and hasattr(sampler, 'set_start'):
        sampler.set_start(start * batches.batch_size)
        return iter(dataloader)
    if hasattr(batches, 'set_start'):
        batches.set_start(start)
        return iter(dataloader)
    print_log(
        f'{type(batches).__name__} over {type(sampler).__name__} cannot start at batch {start}: the batches before it '
        'are read and dropped. Samplers with set_start (ResumableSampler) avoid that',
        logger='current',
        level=logging.WARNING,
    )
    return islice(iter(dataloader), start, None)


def sampler_of(dataloader: DataLoader) -> Any:
    """Return what counts the epochs of a loader: its sampler, or a batch sampler that has none."""
    batches = dataloader.batch_sampler
    return dataloader.sampler if type(batches) is BatchSampler else getattr(batches, 'sampler', batches)


class EndlessBatches:
    """Batches of one epoch after the other.

    Args:
        dataloader: The loader; one of an endless sampler never ends its first epoch.
        start: The first batch wanted, counted from the beginning of training.

    Raises:
        ValueError: An epoch has no batch.
    """

    def __init__(self, dataloader: DataLoader, start: int = 0) -> None:
        if not len(dataloader):
            raise ValueError('the data loader gives no batch: the data set is empty, or drop_last is set and it is '
                             'smaller than one batch')
        self._dataloader = dataloader
        endless = not hasattr(sampler_of(dataloader), 'epoch')
        self._epoch, start = (0, start) if endless else divmod(start, len(dataloader))
        self._iterator = begin_epoch(dataloader, self._epoch, start)

    def __iter__(self) -> 'EndlessBatches':
        return self

    def __next__(self) -> Any:
        while True:
            for batch in self._iterator:
                return batch
            self._epoch += 1
            self._iterator = begin_epoch(self._dataloader, self._epoch)


class _ValidateOnResume:
    """What both loops share."""

    runner: Any

    def _validate_if_missed(self, due: bool) -> None:
        """Validate first, where the checkpoint was saved before a validation that the run did not finish."""
        if due and self.runner.val_loop is not None and self._validated() != self.runner.iter:
            self.runner.logger.info('The run ended before this validation was done, so it comes first.')
            self.runner.val_loop.run()

    def _validated(self) -> int | None:
        return self.runner.message_hub.runtime_info.get(VALIDATED)


@register(LOOPS)
class EpochTrainLoop(_ValidateOnResume, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` that resumes where a checkpoint was saved, also within an epoch."""

    def run(self) -> Any:
        """Train, and return the model."""
        self.runner.call_hook('before_train')
        if self._epoch and self._iter == self._epoch * len(self.dataloader):
            self._validate_if_missed(self._is_due())
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self.runner.val_loop is not None and self._is_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it.

        Raises:
            ValueError: The resumed iteration is not in the resumed epoch: the data or the batch size have changed.
        """
        length = len(self.dataloader)
        start = self._iter - self._epoch * length
        if not 0 <= start <= length:
            raise ValueError(
                f'iteration {self._iter} is not in epoch {self._epoch} of {length} batches each: the checkpoint was '
                'trained with other data, another batch size or another number of processes, so training cannot go '
                'on from it; use load_from to start anew from its weights'
            )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(begin_epoch(self.dataloader, self._epoch, start), start):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _is_due(self) -> bool:
        self._decide_current_val_interval()
        last = self._epoch == self._max_epochs
        return self._epoch >= self.val_begin and (self._epoch % self.val_interval == 0 or last)


@register(LOOPS)
class IterTrainLoop(_ValidateOnResume, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` that resumes by moving the sampler instead of reading and dropping data."""

    def run(self) -> Any:
        """Train, and return the model."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        # The iterator of the parent's constructor began at the beginning, before there was anything to resume.
        self.dataloader_iterator = EndlessBatches(self.dataloader, self._iter)
        if self._iter:
            self._validate_if_missed(self._is_due())
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            if self.runner.val_loop is not None and self._is_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _is_due(self) -> bool:
        self._decide_current_val_interval()
        last = self._iter == self._max_iters
        return self._iter >= self.val_begin and (self._iter % self.val_interval == 0 or last)
