"""Few-shot episodes to train on: which images each batch holds, and what they are in their episode.

LoRA-Recycle (Hu et al., CVPR 2025, section 4.2 and algorithm 1) meta-trains on two kinds of episodes: those of the
classes and images of one LoRA of a hub, and those that cross LoRAs, whose classes are drawn from the whole pool. The
published code draws one kind after a fixed number of the other; here each episode is of the second kind with the
probability ``p_interpolate``. Everything that is drawn follows from the seed and the number of the episode.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from ..episodes import Episode, check_episode_size, draw_episode, positions_by_class
from ..randomness import derive_seed
from ..registry import DATA_SAMPLERS, register
from .seeded import SampleIndex


class Origin(NamedTuple):
    """Where the images of an episode of one LoRA come from; pools of several hubs may have LoRAs of one name.

    Attributes:
        source: Number of the data set among those of an :class:`EpisodicDataset`.
        lora: Name of the LoRA.
    """

    source: int
    lora: str


@dataclass(frozen=True)
class Place:
    """What an image is in its episode.

    Attributes:
        episode: Number of the episode.
        label: Of its class in the episode, from 0.
        support: Whether it is a support image, not a query.
        origin: The LoRA whose classes and images the episode has; None where classes come from everywhere.
    """

    episode: int
    label: int
    support: bool
    origin: Origin | None = None


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


@register(DATA_SAMPLERS)
class EpisodeSampler(Sampler):
    """Batches of episodes: a batch sampler.

    In a config it is the ``batch_sampler`` of a data loader whose ``batch_size`` counts episodes, and gets the other
    arguments from there; in a program ``EpisodeSampler(dataset=data, seed=0)`` goes into a ``DataLoader``. An episode
    is its support images, then its query images, one of each class in turn. Episodes are numbered through all epochs
    and processes, so that a run goes on exactly from any batch: :meth:`set_epoch` and :meth:`set_start`, or
    :meth:`state_dict` and :meth:`load_state_dict`.

    Args:
        sampler: Of the data loader: its data set and seed are taken. None where both are given.
        batch_size: Episodes of a batch, whose losses are summed.
        n_way: Classes of an episode.
        n_shot: Support images of a class.
        n_query: Query images of a class.
        num_episodes: Of an epoch, of all processes; a batch that would lack episodes is left out.
        p_interpolate: Probability that the classes of an episode are drawn from all, and not from those of one LoRA.
        dataset: Has ``get_gt_labels``, and ``get_origins`` where ``p_interpolate`` is below 1.
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
        self.epoch = self._start = self._given = 0
        self._positions = positions_by_class(dataset.get_gt_labels())
        classes = (getattr(dataset, 'metainfo', None) or {}).get('meta_classes')
        check_episode_size(self._positions, n_way, n_shot, n_query, classes)
        self._of_lora: dict[Origin, dict[int, np.ndarray]] = {}
        if p_interpolate < 1:
            self._of_lora = self._split_by_lora(dataset, classes)

    @property
    def sampler(self) -> 'EpisodeSampler':
        """This sampler itself: mmengine tells the epoch to what a batch sampler has under this name."""
        return self

    @property
    def loras(self) -> tuple[Origin, ...]:
        """The LoRAs that have episodes of their own, as ``p_interpolate`` is below 1."""
        return tuple(self._of_lora)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch, self._given = int(epoch), self._start

    def set_start(self, start: int) -> None:
        """Skip the first batches of this process in the next pass, and in that one only.

        Raises:
            ValueError: ``start`` is negative.
        """
        if start < 0:
            raise ValueError(f'a sampler cannot start at {start}: the start counts batches from 0')
        self._start = self._given = int(start)

    def state_dict(self) -> dict[str, Any]:
        """Return how far this process is, as plain data: the epoch, and the batches of it that were given.

        Workers of a data loader ask for batches before they are trained on; a loop that counts its own steps says
        where it is with :meth:`set_epoch` and :meth:`set_start`.
        """
        return dict(epoch=self.epoch, start=self._given, settings=self._settings())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on behind the last batch of a state, and give what it would have given.

        Args:
            state: Of :meth:`state_dict`.

        Raises:
            ValueError: It is no such state, or that of other episodes; the setting is named.
        """
        if set(state) != {'epoch', 'start', 'settings'}:
            raise ValueError(f'the state of an EpisodeSampler has epoch, start and settings, got {sorted(state)}')
        own = self._settings()
        other = [name for name in own if own[name] != state['settings'].get(name)]
        if other:
            raise ValueError(f'the state is that of other episodes: {other[0]} was '
                             f'{state["settings"].get(other[0])!r}, now it is {own[other[0]]!r}; give the same')
        self.set_epoch(state['epoch'])
        self.set_start(state['start'])

    def __len__(self) -> int:
        """Return the number of batches of this process in an epoch."""
        return self.num_episodes // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[EpisodeIndex]]:
        """Return this process's batches of the current epoch from the start on."""
        start, self._start, self._given = self._start, 0, self._start
        return self._pass(self.epoch * len(self), start)  # Now: the epoch may move on while workers still fetch.

    def draw(self, number: int) -> tuple[Episode, Origin | None]:
        """Return an episode, the same whatever was drawn before, and the LoRA whose it is.

        Args:
            number: Of the episode, at least 0.
        """
        rng = np.random.default_rng(derive_seed('episode', self.seed, number))
        origin, positions = None, self._positions
        if rng.random() >= self.p_interpolate:
            origin = list(self._of_lora)[rng.integers(len(self._of_lora))]
            positions = self._of_lora[origin]
        seed = derive_seed('episode images', self.seed)
        return draw_episode(positions, self.n_way, self.n_shot, self.n_query, seed, number), origin

    def indices(self, number: int) -> list[EpisodeIndex]:
        """Return the indices of an episode, support first, one of each class in turn."""
        episode, origin = self.draw(number)
        found = []
        for support, positions in zip((True, False), shot_major(episode), strict=True):
            found += [EpisodeIndex(position, self.seed, Place(number, p % self.n_way, support, origin))
                      for p, position in enumerate(positions.tolist())]
        return found

    def _pass(self, first: int, start: int) -> Iterator[list[EpisodeIndex]]:
        for step in range(start, len(self)):
            batch = self._batch(first + step)
            self._given = step + 1
            yield batch

    def _batch(self, step: int) -> list[EpisodeIndex]:
        first = (step * self.world_size + self.rank) * self.batch_size
        return [index for number in range(first, first + self.batch_size) for index in self.indices(number)]

    def _settings(self) -> dict[str, Any]:
        return dict(seed=self.seed, n_way=self.n_way, n_shot=self.n_shot, n_query=self.n_query,
                    num_episodes=self.num_episodes, batch_size=self.batch_size, p_interpolate=self.p_interpolate,
                    world_size=self.world_size, images=sum(map(len, self._positions.values())))

    def _split_by_lora(self, dataset: Any, classes: Sequence[str] | None) -> dict[Origin, dict[int, np.ndarray]]:
        places: dict[Origin, list[int]] = {}
        for place, origin in enumerate(dataset.get_origins() if hasattr(dataset, 'get_origins') else ()):
            if origin is not None:
                places.setdefault(origin, []).append(place)
        if not places:
            raise ValueError(f'p_interpolate={self.p_interpolate} asks for episodes of single LoRAs, but the data set '
                             'has no image that was made from one: train on a pool, or set p_interpolate=1')
        found, labels = {}, np.asarray(dataset.get_gt_labels())
        for origin in sorted(places):
            own = np.array(places[origin])
            found[origin] = {label: own[there] for label, there in positions_by_class(labels[own]).items()}
            try:
                check_episode_size(found[origin], self.n_way, self.n_shot, self.n_query, classes)
            except ValueError as error:
                raise ValueError(f'images of the LoRA {origin.lora!r}: {error}; or set p_interpolate=1') from error
        return found
