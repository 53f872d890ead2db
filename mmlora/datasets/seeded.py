"""A data set whose augmentation of a sample depends on (seed, epoch, index) alone.

The sampler hands out indices that carry seed and epoch (:class:`SampleIndex`); the data set seeds the generators with
them before its pipeline runs. Which worker process prepares the sample, and what it did before, no longer matters.
"""

from typing import Any

from mmengine.registry import DATASETS as ROOT_DATASETS

from ..randomness import derive_seed, seeded
from ..registry import DATASETS, register


class SampleIndex(int):
    """The index of a sample that also says from which seed its augmentation is drawn. Picklable.

    Args:
        index: Position in the data set.
        seed: The run's seed.
        epoch: The pass over the data.
        draw: Tells apart several draws of one sample within an epoch.
    """

    seed: int
    epoch: int
    draw: int

    def __new__(cls, index: int, seed: int, epoch: int, draw: int = 0) -> 'SampleIndex':
        """Make the index; see the class."""
        self = super().__new__(cls, index)
        self.seed, self.epoch, self.draw = int(seed), int(epoch), int(draw)
        return self

    def __getnewargs__(self) -> tuple[int, int, int, int]:
        """Return what pickle and copy build the object from."""
        return int(self), self.seed, self.epoch, self.draw

    def derived_seed(self) -> int:
        """Return the seed of this sample's augmentation."""
        return derive_seed('sample', self.seed, self.epoch, int(self), self.draw)


@register(DATASETS)
class SeededDataset:
    """Any data set, with the augmentation of each sample seeded by its index.

    An index that is not a :class:`SampleIndex` is passed on unseeded. The generators are given back as they were, so
    that loading in the main process (``num_workers=0``) does not change what the model draws. Pipelines that keep
    generators of their own (newer versions of albumentations) are beyond its reach.

    Everything else (``metainfo``, ``full_init``, ``get_data_info``, ``pipeline`` ...) is the wrapped data set's, for
    reading and for setting.

    Args:
        dataset: A data set or its config.
    """

    dataset: Any

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, dict):
            dataset = ROOT_DATASETS.build(dataset)
        object.__setattr__(self, 'dataset', dataset)

    def __getitem__(self, index: int) -> Any:
        """Return a prepared sample."""
        if not isinstance(index, SampleIndex):
            return self.dataset[index]
        with seeded(index.derived_seed()):
            return self.dataset[index]  # With its epoch, for data sets that draw their images themselves.

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Special methods are not passed on: torch's `__getitems__` would go round the seeding, and pickle looks for
        # its own before there is a data set to ask.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the wrapped data set: hooks that switch the pipeline must reach it."""
        setattr(self.dataset, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {'dataset': self.dataset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, 'dataset', state['dataset'])

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.dataset!r})'
