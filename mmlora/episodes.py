"""Few-shot episodes as a pure function of labels, seed and episode number.

An episode asks to tell ``n_way`` classes apart from ``n_shot`` support images of each; ``n_query`` further images of
each class are the questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Episode:
    """Positions (in the list of labels) of the images of one episode.

    Attributes:
        classes: ``(n_way,)`` labels, in the order of the rows below.
        support: ``(n_way, n_shot)`` positions.
        query: ``(n_way, n_query)`` positions, disjoint from ``support``.
    """

    classes: np.ndarray
    support: np.ndarray
    query: np.ndarray


def positions_by_class(labels: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
    """Map each label, in ascending order, to the ascending positions at which it stands."""
    labels = np.asarray(labels)
    return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}


def check_episode_size(
    positions: Mapping[int, np.ndarray],
    n_way: int,
    n_shot: int,
    n_query: int,
    classes: Sequence[str] | None = None,
) -> None:
    """Refuse episodes that the data cannot fill.

    Args:
        positions: The result of :func:`positions_by_class`.
        n_way: Classes of an episode.
        n_shot: Support images of a class.
        n_query: Query images of a class.
        classes: Names of the classes, for the message.

    Raises:
        ValueError: A number is below 1, there are fewer than ``n_way`` classes, or a class has fewer than
            ``n_shot + n_query`` images; the message names the smallest class.
    """
    if min(n_way, n_shot, n_query) < 1:
        raise ValueError(f'n_way={n_way}, n_shot={n_shot} and n_query={n_query} must each be at least 1')
    if len(positions) < n_way:
        raise ValueError(f'{n_way}-way episodes need {n_way} classes, but the data has {len(positions)}')
    smallest = min(positions, key=lambda label: len(positions[label]))
    size = len(positions[smallest])
    if size < n_shot + n_query:
        name = f'{smallest}' if classes is None else f'{smallest} ({classes[smallest]})'
        raise ValueError(
            f'{n_shot}-shot episodes with {n_query} queries need {n_shot + n_query} images of each class, but class '
            f'{name} has {size}; lower n_shot or n_query, or leave the class out'
        )


def draw_episode(
    positions: Mapping[int, np.ndarray], n_way: int, n_shot: int, n_query: int, seed: int, number: int
) -> Episode:
    """Draw one episode, without replacement.

    Args:
        positions: The result of :func:`positions_by_class`, checked by :func:`check_episode_size`.
        n_way: Classes of the episode.
        n_shot: Support images of a class.
        n_query: Query images of a class.
        seed: Seed of the whole series, at least 0.
        number: Number of the episode, at least 0.

    Returns:
        The episode; the same for the same arguments, whatever was drawn before.
    """
    rng = np.random.default_rng((seed, number))
    labels = np.array(sorted(positions))
    classes = rng.choice(labels, n_way, replace=False)
    chosen = np.stack([rng.choice(positions[int(label)], n_shot + n_query, replace=False) for label in classes])
    return Episode(classes, chosen[:, :n_shot], chosen[:, n_shot:])
