"""Nearest-prototype classification of few-shot episodes.

Prototypical networks (Snell et al., NeurIPS 2017, arXiv 1703.05175): a class is the mean of its support features, and
a query goes to the nearest mean. Here with frozen features, so that nothing is learned.
"""

from collections.abc import Callable

import numpy as np


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def cosine_scores(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Score queries by the cosine to the mean of the length-normalised support features.

    Args:
        support: ``(n_way, n_shot, D)``.
        query: ``(Q, D)``.

    Returns:
        ``(Q, n_way)`` in -1..1.
    """
    return _unit(query) @ _unit(_unit(support).mean(axis=1)).T


def euclidean_scores(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Score queries by the negative squared distance to the mean of the support features; shapes as above."""
    prototypes = support.mean(axis=1)  # (n_way, D)
    return 2 * query @ prototypes.T - (prototypes**2).sum(axis=1) - (query**2).sum(axis=1, keepdims=True)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    'cosine': cosine_scores,
    'euclidean': euclidean_scores,
}


def prototype_accuracy(support: np.ndarray, query: np.ndarray, metric: str = 'cosine') -> float:
    """Classify the queries of one episode.

    Args:
        support: ``(n_way, n_shot, D)`` features.
        query: ``(n_way, n_query, D)`` features; row i belongs to class i.
        metric: ``'cosine'`` or ``'euclidean'``.

    Returns:
        Part of the queries whose nearest prototype is their own class's, in 0..1.

    Raises:
        ValueError: An unknown metric.
    """
    if metric not in SCORES:
        raise ValueError(f'metric={metric!r} is unknown; choose from {", ".join(SCORES)}')
    n_way, n_query = query.shape[:2]
    scores = SCORES[metric](support, query.reshape(n_way * n_query, -1))
    return float((scores.argmax(axis=1) == np.repeat(np.arange(n_way), n_query)).mean())


def mean_and_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval, ``1.96 * std / sqrt(n)``.

    Args:
        values: ``(n,)``, n at least 2; the standard deviation is the sample's (n - 1).

    Raises:
        ValueError: Fewer than two values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        raise ValueError(f'an interval needs at least 2 episodes, got {values.size}')
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(values.size))
