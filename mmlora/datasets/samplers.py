"""Samplers that can start anywhere and whose indices carry the seed of their augmentation.

Each behaves as the sampler it derives from; :meth:`Resumable.set_start` moves the start of the next pass, so that a
resumed run neither reads nor discards the data that it has seen.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info, sync_random_seed
from mmpretrain.datasets import RepeatAugSampler
from torch.utils.data import Sampler

from ..registry import DATA_SAMPLERS, register
from .seeded import SampleIndex


class Resumable:
    """What turns a sampler of one epoch into a resumable one. Goes before the sampler among the bases."""

    seed: int
    epoch: int
    _start = 0

    def set_start(self, start: int) -> None:
        """Skip the first samples of this process in the next pass, and in that one only.

        Args:
            start: How many samples to skip.

        Raises:
            ValueError: ``start`` is negative.
        """
        if start < 0:
            raise ValueError(f'a sampler cannot start at {start}: the start counts samples from 0')
        self._start = int(start)

    def draw_of(self, position: int) -> int:
        """Return the number that tells this position's draw from other draws of the same sample in the epoch.

        Args:
            position: Count of this process's samples in the epoch, from 0.
        """
        return 0

    def __iter__(self) -> Iterator[SampleIndex]:
        """Return this process's indices of the current epoch from the start position on."""
        start, self._start = self._start, 0
        seed, epoch = self.seed, self.epoch  # Taken now: the epoch may move on while workers still fetch.
        indices = enumerate(super().__iter__())  # type: ignore[misc]
        return (SampleIndex(i, seed, epoch, self.draw_of(n)) for n, i in islice(indices, start, None))


@register(DATA_SAMPLERS)
class ResumableSampler(Resumable, DefaultSampler):
    """mmengine's ``DefaultSampler``, resumable. Arguments and order of samples are the same."""


@register(DATA_SAMPLERS)
class ResumableRepeatAugSampler(Resumable, RepeatAugSampler):
    """mmpretrain's ``RepeatAugSampler``, resumable; the repeats of a sample are augmented differently."""

    rank: int
    world_size: int

    def draw_of(self, position: int) -> int:
        """Return the position among all processes, as the repeats of a sample lie in different ones."""
        return position * self.world_size + self.rank


@register(DATA_SAMPLERS)
class ResumableInfiniteSampler(Sampler):
    """An endless sampler for loops that count iterations; it jumps to any start without drawing what lies before.

    As with mmengine's ``InfiniteSampler``, the passes over the data follow each other without a gap and the processes
    take turns; here each pass is shuffled by a generator of its own.

    Args:
        dataset: The data set; only its length counts.
        shuffle: Whether each pass is shuffled.
        seed: The run's seed, the same in all processes. By default one is drawn and shared.
    """

    def __init__(self, dataset: Any, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset, self.shuffle = dataset, shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.size = len(dataset)
        if not self.size:
            raise ValueError('cannot sample without end from an empty data set')
        self._start = 0

    def set_start(self, start: int) -> None:
        """Skip the first samples of this process; see :meth:`Resumable.set_start`."""
        Resumable.set_start(self, start)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the passes count themselves."""

    def __iter__(self) -> Iterator[SampleIndex]:
        """Return this process's indices from the start position on, without end."""
        start, self._start = self._start, 0
        return self._indices(self.rank + start * self.world_size)

    def __len__(self) -> int:
        """Return the number of samples of one pass, all processes together, as mmengine's sampler does."""
        return self.size

    def _indices(self, position: int) -> Iterator[SampleIndex]:
        epoch, order = -1, []
        while True:
            if position // self.size != epoch:
                epoch = position // self.size
                order = self._order(epoch)
            yield SampleIndex(order[position % self.size], self.seed, epoch)
            position += self.world_size

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
