"""What all tuners share: they learn from the support of an episode, and score its queries."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...episodes import Episode
from ...randomness import derive_seed
from .test_images import TestImages


@dataclass(frozen=True)
class NumberedEpisode:
    """An episode of a series, and what its random draws follow from.

    Attributes:
        episode: Its images.
        number: Its number in the series.
        seed: Of the tuner.
    """

    episode: Episode
    number: int
    seed: int

    def generator(self, what: str) -> torch.Generator:
        """Return a generator for one purpose, which no other episode of the series and no other purpose shares."""
        return torch.Generator().manual_seed(derive_seed(f'episode {what}', self.seed, self.number))

    @property
    def positions(self) -> np.ndarray:
        """``(n_way * (n_shot + n_query),)`` positions, support first, class by class."""
        return np.concatenate([self.episode.support.ravel(), self.episode.query.ravel()])


def support_labels(episode: Episode) -> Tensor:
    """Return int64 ``(n_way * n_shot,)``, the rows of the support one behind the other."""
    n_way, n_shot = episode.support.shape
    return torch.arange(n_way).repeat_interleave(n_shot)


class EpisodeTuner(ABC):
    """Learns from the support of episodes; what it learned is forgotten after each.

    The model is in evaluation mode throughout: without dropout, and with the running statistics of its normalisations.

    Args:
        together: How many episodes are learned at once. It changes time and memory, not what is learned.

    Raises:
        ValueError: ``together`` is below 1.
    """

    def __init__(self, together: int) -> None:
        self.together = whole('together', together, 1)
        self._undo = ExitStack()  # What finish() does.

    @abstractmethod
    def start(self, images: TestImages) -> None:
        """Look at model and images before the first episode.

        Raises:
            ValueError: They do not fit the method.
        """

    @abstractmethod
    def scores(self, episodes: Sequence[NumberedEpisode], images: Tensor | None) -> Tensor:
        """Learn from the support of each episode, and score its queries.

        Args:
            episodes: All of one size, at most ``together``.
            images: ``(E, n_way * (n_shot + n_query), C, H, W)`` prepared images in the order of ``positions``, where
                :attr:`needs_images` says so.

        Returns:
            ``(E, n_way * n_query, n_way)``, larger for the likelier, in the order of the queries.
        """

    needs_images = False
    """Whether :meth:`scores` sees the images; else it works on features that :meth:`start` has computed."""

    def finish(self) -> None:
        """Leave the model as it was; called after the last episode, and if anything fails."""
        self._undo.close()


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number that is at least ``least``.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{name} must be a whole number of at least {least}, got {value!r}')
    return value
