"""Accuracies of single episodes in a file, and the difference of two methods on the same episodes.

The mean over episodes varies mostly with which episodes were drawn. Two methods tested on the same ones share that
part: the interval of the mean of the differences, episode by episode, is the one that compares them, and it is much
narrower than the intervals of the two means suggest.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io.atomic import write_text
from ..io.json_object import read_object
from .prototypes import mean_and_interval

FORMAT = 'mmlora episodes 1'
_REMEDY = 'test again with EpisodeAccuracy(save=...)'


@dataclass(frozen=True)
class EpisodeScores:
    """What a test found in each of its episodes.

    Attributes:
        accuracies: ``(n_episodes,)`` in percent, in the order of the numbers of the episodes.
        episodes: ``n_way``, ``n_shot``, ``n_query``, ``n_episodes`` and ``seed``.
        images: Hash of the labels from which the episodes were drawn; see :func:`images_digest`.
    """

    accuracies: np.ndarray
    episodes: Mapping[str, int]
    images: str

    def write(self, path: str | os.PathLike) -> Path:
        """Write a file that :meth:`read` reads, and return it."""
        content = dict(format=FORMAT, episodes=dict(self.episodes), images=self.images,
                       accuracies=[float(value) for value in self.accuracies])
        return write_text(path, json.dumps(content, allow_nan=False) + '\n')

    @classmethod
    def read(cls, path: str | os.PathLike) -> 'EpisodeScores':
        """Read the file of a test.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        content = read_object(Path(path), _REMEDY, FORMAT)
        episodes, values = content.get('episodes'), content.get('accuracies')
        if not isinstance(episodes, dict) or not isinstance(values, list) or len(values) != episodes.get('n_episodes'):
            raise ValueError(f'{path} does not hold one accuracy for each of its episodes: {_REMEDY}')
        if not isinstance(content.get('images'), str):
            raise ValueError(f'{path} does not say which labels its episodes were drawn from: {_REMEDY}')
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise ValueError(f'{path} holds accuracies that are no numbers: {_REMEDY}')
        return cls(np.asarray(values, dtype=np.float64), episodes, content['images'])

    def minus(self, other: 'EpisodeScores') -> tuple[float, float]:
        """Return :func:`paired_difference` of this test and another one.

        The labels are compared; that they are those of the same images is for you to see to.

        Raises:
            ValueError: The other one had other episodes; the field that differs is named.
        """
        for name in sorted({*self.episodes, *other.episodes}):
            own, theirs = self.episodes.get(name), other.episodes.get(name)
            if own != theirs:
                raise ValueError(f'the two tests had other episodes: {name}={own} and {name}={theirs}')
        if self.images != other.images:
            raise ValueError('the two tests drew their episodes from other images, whose labels have the hashes '
                             f'{self.images[:12]} and {other.images[:12]}: test both on the same data')
        return paired_difference(self.accuracies, other.accuracies)


def paired_difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return by how much ``a`` is better than ``b`` on the same episodes.

    Args:
        a: ``(n,)`` accuracies of episodes, in percent; n at least 2.
        b: ``(n,)``, those of the other method on the same episodes, in the same order.

    Returns:
        The mean difference ``a - b`` and the half width of its 95 % interval, ``1.96 * std / sqrt(n)`` with the
        standard deviation of the sample of differences, both in percentage points.

    Raises:
        ValueError: The lengths differ, or there are fewer than two episodes.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f'a pair is of the same episodes, got accuracies of the shapes {a.shape} and {b.shape}')
    return mean_and_interval(a - b)


def images_digest(labels: Sequence[int] | np.ndarray, classes: Sequence[Any] | None = None) -> str:
    """Return a hash of what episodes are drawn from: the labels of the images in their order, and their names."""
    content = json.dumps([np.asarray(labels).tolist(), None if classes is None else list(map(str, classes))])
    return hashlib.sha256(content.encode()).hexdigest()
