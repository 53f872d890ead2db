"""Data sets of episodes: one or several, real or made, seen as one whose classes are all different."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from mmengine.registry import DATASETS as ROOT_DATASETS

from ..registry import DATASETS, register
from .episodes import EpisodeIndex, Origin
from .pool import PoolImages
from .seeded import SampleIndex


@register(DATASETS)
class EpisodicDataset:
    """Data sets with one label an image, as one whose classes are all different, for episodes.

    An image that an :class:`EpisodeIndex` asks for gets its label in the episode, and its data sample says what it is
    there (``episode``, ``support``, ``lora``, ``source``). Other indices give images with their label among all
    classes.

    Args:
        dataset: A data set or its config, or several of them, such as pools and real images.
        join: Whether classes of one name in several sets are one class, as those of pools that were made of one hub in
            parts. By default classes of different sets are different classes, whatever their names.
        apart: Whether images that were made from no LoRA count by their data set, so that ``p_interpolate=0`` draws all
            classes of an episode from one set.

    Raises:
        ValueError: There is no data set, or two pools have images of one class that are not joined.
        TypeError: A data set does not say the labels of its images.
    """

    def __init__(self, dataset: Any, join: bool = False, apart: bool = False) -> None:
        given = dataset if isinstance(dataset, (list, tuple)) else [dataset]
        if not given:
            raise ValueError('episodes need at least one data set')
        self.datasets = [ROOT_DATASETS.build(one) if isinstance(one, Mapping) else one for one in given]
        for one in self.datasets:
            if not hasattr(one, 'get_gt_labels'):
                raise TypeError(f'episodes need the label of each image, which {type(one).__name__} does not tell: it '
                                'has no get_gt_labels')
        self.apart = apart
        self._ends = list(accumulate(len(one) for one in self.datasets))
        if not join:
            _check_apart([one for one in self.datasets if isinstance(one, PoolImages)])
        self.meta_classes, self._labels = _numbered([_class_names(one) for one in self.datasets], join)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The classes as ``meta_classes``: ``classes`` would be those of a head, which is not there."""
        return dict(meta_classes=self.meta_classes)

    def get_gt_labels(self) -> np.ndarray:
        """Return the label of each image among all classes, ``(N,)``."""
        own = (np.asarray(one.get_gt_labels()) for one in self.datasets)
        return np.concatenate([labels[places] for labels, places in zip(self._labels, own, strict=True)])

    def get_loras(self) -> list[str | None]:
        """Return for each image the LoRA that it was made from; None for images that were not made."""
        return [name for one in self.datasets for name in getattr(one, 'loras', None) or [None] * len(one)]

    def get_origins(self) -> list[Origin | None]:
        """Return for each image the LoRA that it was made from, with the number of its data set."""
        sources = (number for number, one in enumerate(self.datasets) for _ in range(len(one)))
        if self.apart:
            return [Origin(source, name or '') for source, name in zip(sources, self.get_loras(), strict=True)]
        return [name and Origin(source, name) for source, name in zip(sources, self.get_loras(), strict=True)]

    def __len__(self) -> int:
        """Return the number of images."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a prepared image; see the class."""
        if not 0 <= index < len(self):
            raise IndexError(f'there are {len(self)} images, got the index {int(index)}')
        part = int(np.searchsorted(self._ends, int(index), side='right'))
        own = int(index) - (self._ends[part - 1] if part else 0)
        if isinstance(index, SampleIndex):
            own = SampleIndex(own, index.seed, index.epoch, index.draw)
        item = self.datasets[part][own]
        sample = item['data_samples']
        if isinstance(index, EpisodeIndex):
            place = index.place
            source, lora = place.origin or (None, None)
            sample.set_gt_label(place.label)
            sample.set_metainfo(dict(episode=place.episode, support=place.support, lora=lora, source=source))
        else:
            sample.set_gt_label(int(self._labels[part][int(sample.gt_label)]))
        return item


def _numbered(names: Sequence[Sequence[str]], join: bool) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return the names of all classes, and for each data set the numbers of its own among them."""
    if not join:
        ends = list(accumulate(map(len, names)))
        labels = [np.arange(end - len(own), end) for own, end in zip(names, ends, strict=True)]
        return tuple(name for own in names for name in own), labels
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for own in names for name in own))}
    return tuple(numbers), [np.array([numbers[name] for name in own]) for own in names]


def _check_apart(pools: Sequence[PoolImages]) -> None:
    """Refuse pools with images of one class: an episode could hold it twice, as two classes.

    Raises:
        ValueError: There are two; the class and both pools are named.
    """
    seen: dict[tuple[str, int, str], PoolImages] = {}
    for one in pools:
        base = one.pool.about.get('base')
        for class_id, name in zip(one.pool.class_ids, one.pool.classes, strict=True):
            other = seen.setdefault((base, class_id, name), one)
            if base is not None and other is not one:
                raise ValueError(f'the pools {other.pool.folder} and {one.pool.folder} both hold images of the class '
                                 f'{name!r}, number {class_id} of a hub on the same weights: set join=True to make '
                                 'them one class, or train on one of the pools')


def _class_names(dataset: Any) -> Sequence[str]:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is not None:
        return tuple(map(str, classes))
    return tuple(f'class {label}' for label in range(1 + max(map(int, dataset.get_gt_labels()))))
