"""Few-shot episodes to train on: which images each batch holds, and what they are in their episode.

LoRA-Recycle (Hu et al., CVPR 2025, section 4.2 and algorithm 1) meta-trains on two kinds of episodes: those of the
classes and images of one LoRA of a hub, and those that cross LoRAs, whose classes are drawn from the whole pool. The
published code draws one kind after a fixed number of the other; here each episode is of the second kind with the
probability ``p_interpolate``. Everything that is drawn follows from the seed and the number of the episode.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch.utils.data import Sampler

from ..episodes import Episode, check_episode_size, draw_episode, positions_by_class
from ..randomness import derive_seed
from ..registry import DATA_SAMPLERS, DATASETS, register
from .seeded import SampleIndex


@dataclass(frozen=True)
class Place:
    """What an image is in its episode.

    Attributes:
        episode: Number of the episode.
        label: Of its class in the episode, from 0.
        support: Whether it is a support image, not a query.
        lora: Name of the LoRA whose classes and images the episode has; None where classes come from everywhere.
    """

    episode: int
    label: int
    support: bool
    lora: str | None = None


class EpisodeIndex(SampleIndex):
    """The index of an image that also says what it is in an episode. Picklable.

    Args:
        index: Position in the data set.
        seed: The run's seed.
        place: What the image is; its augmentation is drawn anew in each episode.
    """

    place: Place

    def __new__(cls, index: int, seed: int, place: Place) -> 'EpisodeIndex':
        """Make the index; see the class."""
        self = super().__new__(cls, index, seed, place.episode)
        self.place = place
        return self

    def __getnewargs__(self) -> tuple[int, int, Place]:
        """Return what pickle and copy build the object from."""
        return int(self), self.seed, self.place


def shot_major(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the support and of the query images, one of each class in turn.

    Args:
        episode: Of ``n_way`` classes.

    Returns:
        ``(n_shot * n_way,)`` and ``(n_query * n_way,)``; place p is of the class ``p % n_way``.
    """
    return episode.support.T.reshape(-1), episode.query.T.reshape(-1)


@register(DATASETS)
class EpisodicDataset:
    """Data sets with one label an image, as one whose classes are all different, for episodes.

    An image that an :class:`EpisodeIndex` asks for gets its label in the episode, and its data sample says what it is
    there (``episode``, ``support``, ``lora``). Other indices give images with their label among all classes.

    Args:
        dataset: A data set or its config, or several of them: classes of different sets are different classes, whatever
            their names.

    Raises:
        ValueError: There is no data set.
        TypeError: A data set does not say the labels of its images.
    """

    def __init__(self, dataset: Any) -> None:
        given = dataset if isinstance(dataset, (list, tuple)) else [dataset]
        if not given:
            raise ValueError('episodes need at least one data set')
        self.datasets = [ROOT_DATASETS.build(one) if isinstance(one, Mapping) else one for one in given]
        for one in self.datasets:
            if not hasattr(one, 'get_gt_labels'):
                raise TypeError(f'episodes need the label of each image, which {type(one).__name__} does not tell: it '
                                'has no get_gt_labels')
        self._ends = list(accumulate(len(one) for one in self.datasets))
        names = [_class_names(one) for one in self.datasets]
        self._first = [0, *accumulate(map(len, names))]
        self.meta_classes = tuple(name for own in names for name in own)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The classes as ``meta_classes``: ``classes`` would be those of a head, which is not there."""
        return dict(meta_classes=self.meta_classes)

    def get_gt_labels(self) -> np.ndarray:
        """Return the label of each image among all classes, ``(N,)``."""
        labels = [np.asarray(one.get_gt_labels()) for one in self.datasets]
        return np.concatenate([own + first for own, first in zip(labels, self._first[:-1], strict=True)])

    def get_loras(self) -> list[str | None]:
        """Return for each image the LoRA that it was made from; None for images that were not made."""
        return [name for one in self.datasets for name in getattr(one, 'loras', None) or [None] * len(one)]

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
            sample.set_gt_label(place.label)
            sample.set_metainfo(dict(episode=place.episode, support=place.support, lora=place.lora))
        else:
            sample.set_gt_label(int(sample.gt_label) + self._first[part])
        return item


@register(DATA_SAMPLERS)
class EpisodeSampler(Sampler):
    """Batches of episodes: a batch sampler.

    In a config it is the ``batch_sampler`` of a data loader whose ``batch_size`` counts episodes, and gets the other
    arguments from there; in a program ``EpisodeSampler(dataset=data, seed=0)`` goes into a ``DataLoader``. An episode
    is its support images, then its query images, one of each class in turn. Episodes are numbered through all epochs
    and processes, so that a run goes on exactly from any batch: :meth:`set_epoch` and :meth:`set_start`.

    Args:
        sampler: Of the data loader: its data set and seed are taken. None where both are given.
        batch_size: Episodes of a batch, whose losses are summed.
        n_way: Classes of an episode.
        n_shot: Support images of a class.
        n_query: Query images of a class.
        num_episodes: Of an epoch, of all processes; a batch that would lack episodes is left out.
        p_interpolate: Probability that the classes of an episode are drawn from all, and not from those of one LoRA.
        dataset: Has ``get_gt_labels``, and ``get_loras`` where ``p_interpolate`` is below 1.
        seed: Of all draws.

    Raises:
        ValueError: A number is out of range, the data set cannot fill such episodes (the message names the smallest
            class), or no image was made from a LoRA.
        TypeError: A number is not whole, or the data set does not say its labels.
    """

    def __init__(
        self,
        sampler: Any = None,
        batch_size: int = 1,
        n_way: int = 5,
        n_shot: int = 1,
        n_query: int = 15,
        num_episodes: int = 1000,
        p_interpolate: float = 1.0,
        dataset: Any = None,
        seed: int | None = None,
    ) -> None:
        numbers = dict(batch_size=batch_size, n_way=n_way, n_shot=n_shot, n_query=n_query, num_episodes=num_episodes)
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f'{name} must be a whole number, got {value!r}')
        if not 0 <= p_interpolate <= 1:
            raise ValueError(f'p_interpolate is a probability, from 0 to 1, got {p_interpolate!r}')
        self.rank, self.world_size = get_dist_info()
        if batch_size < 1 or num_episodes < batch_size * self.world_size:
            raise ValueError(f'batch_size={batch_size} on {self.world_size} processes must be at least 1 episode and '
                             f'at most the num_episodes={num_episodes} of an epoch')
        if sampler is not None:
            dataset = getattr(sampler, 'dataset', None) if dataset is None else dataset
            seed = getattr(sampler, 'seed', None) if seed is None else seed
        if dataset is None or seed is None:
            raise ValueError('EpisodeSampler needs a data set and a seed: give both, or a sampler that has them')
        if not hasattr(dataset, 'get_gt_labels'):
            raise TypeError(f'episodes need the label of each image, which {type(dataset).__name__} does not tell')
        self.batch_size, self.num_episodes, self.p_interpolate = batch_size, num_episodes, float(p_interpolate)
        self.n_way, self.n_shot, self.n_query, self.seed = n_way, n_shot, n_query, int(seed)
        self.epoch = self._start = 0
        self._positions = positions_by_class(dataset.get_gt_labels())
        classes = (getattr(dataset, 'metainfo', None) or {}).get('meta_classes')
        check_episode_size(self._positions, n_way, n_shot, n_query, classes)
        self._of_lora: dict[str, dict[int, np.ndarray]] = {}
        if p_interpolate < 1:
            self._of_lora = self._split_by_lora(dataset, classes)

    @property
    def sampler(self) -> 'EpisodeSampler':
        """This sampler itself: mmengine tells the epoch to what a batch sampler has under this name."""
        return self

    @property
    def loras(self) -> tuple[str, ...]:
        """The LoRAs that have episodes of their own, as ``p_interpolate`` is below 1."""
        return tuple(self._of_lora)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = int(epoch)

    def set_start(self, start: int) -> None:
        """Skip the first batches of this process in the next pass, and in that one only.

        Raises:
            ValueError: ``start`` is negative.
        """
        if start < 0:
            raise ValueError(f'a sampler cannot start at {start}: the start counts batches from 0')
        self._start = int(start)

    def __len__(self) -> int:
        """Return the number of batches of this process in an epoch."""
        return self.num_episodes // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[EpisodeIndex]]:
        """Return this process's batches of the current epoch from the start on."""
        start, self._start = self._start, 0
        first = self.epoch * len(self)  # Taken now: the epoch may move on while workers still fetch.
        return (self._batch(first + step) for step in range(start, len(self)))

    def draw(self, number: int) -> tuple[Episode, str | None]:
        """Return an episode, the same whatever was drawn before, and the LoRA whose it is.

        Args:
            number: Of the episode, at least 0.
        """
        rng = np.random.default_rng(derive_seed('episode', self.seed, number))
        lora, positions = None, self._positions
        if rng.random() >= self.p_interpolate:
            lora = list(self._of_lora)[rng.integers(len(self._of_lora))]
            positions = self._of_lora[lora]
        seed = derive_seed('episode images', self.seed)
        return draw_episode(positions, self.n_way, self.n_shot, self.n_query, seed, number), lora

    def indices(self, number: int) -> list[EpisodeIndex]:
        """Return the indices of an episode, support first, one of each class in turn."""
        episode, lora = self.draw(number)
        found = []
        for support, positions in zip((True, False), shot_major(episode), strict=True):
            found += [EpisodeIndex(position, self.seed, Place(number, p % self.n_way, support, lora))
                      for p, position in enumerate(positions.tolist())]
        return found

    def _batch(self, step: int) -> list[EpisodeIndex]:
        first = (step * self.world_size + self.rank) * self.batch_size
        return [index for number in range(first, first + self.batch_size) for index in self.indices(number)]

    def _split_by_lora(self, dataset: Any, classes: Sequence[str] | None) -> dict[str, dict[int, np.ndarray]]:
        loras = np.array([name or '' for name in dataset.get_loras()] if hasattr(dataset, 'get_loras') else [])
        names = sorted(set(loras.tolist()) - {''})
        if not names:
            raise ValueError(f'p_interpolate={self.p_interpolate} asks for episodes of single LoRAs, but the data set '
                             'has no image that was made from one: train on a pool, or set p_interpolate=1')
        found = {}
        for name in names:
            own = {label: places[loras[places] == name] for label, places in self._positions.items()}
            found[name] = {label: places for label, places in own.items() if len(places)}
            try:
                check_episode_size(found[name], self.n_way, self.n_shot, self.n_query, classes)
            except ValueError as error:
                raise ValueError(f'images of the LoRA {name!r}: {error}; or set p_interpolate=1') from error
        return found


def _class_names(dataset: Any) -> Sequence[str]:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is not None:
        return tuple(map(str, classes))
    return tuple(f'class {label}' for label in range(1 + max(map(int, dataset.get_gt_labels()))))
