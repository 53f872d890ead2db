"""A picture of task vectors: each support set a point, each task a colour, by PCA or t-SNE."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..io.atomic import write_atomically

METHODS = ('pca', 'tsne')
_TINY = 1e-12


def pca_plane(points: np.ndarray) -> np.ndarray:
    """Return coordinates on the first two principal components, ``(n, D) -> (n, 2)``."""
    centred = points - points.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    plane = u[:, :2] * s[:2]
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def tsne_plane(points: np.ndarray, perplexity: float = 15.0, steps: int = 500) -> np.ndarray:
    """Return coordinates by exact t-SNE (van der Maaten and Hinton, JMLR 2008), ``(n, D) -> (n, 2)``.

    It begins from PCA, so that nothing is drawn. Memory and time grow as n squared: for some thousand points.

    Args:
        points: At least 4.
        perplexity: How many neighbours count; at most a third of the points.
        steps: Of gradient descent; the first quarter with early exaggeration.

    Raises:
        ValueError: There are too few points.
    """
    count = len(points)
    if count < 4:
        raise ValueError(f't-SNE needs at least 4 points, got {count}: extract more draws, or take PCA')
    p = _affinities(points.astype(np.float64), min(perplexity, (count - 1) / 3))
    plane = pca_plane(points.astype(np.float64))
    plane *= 1e-4 / max(plane[:, 0].std(), _TINY)
    velocity, gain, rate = np.zeros_like(plane), np.ones_like(plane), max(count / 48, 50.0)
    for step in range(steps):
        early = step < steps // 4
        kernel = 1 / (1 + _squared(plane))
        np.fill_diagonal(kernel, 0)
        q = np.maximum(kernel / kernel.sum(), _TINY)
        force = ((12 if early else 1) * p - q) * kernel
        gradient = 4 * (force.sum(1, keepdims=True) * plane - force @ plane)
        gain = np.maximum(np.where(np.sign(gradient) == np.sign(velocity), 0.8 * gain, gain + 0.2), 0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate * gain * gradient
        plane = plane + velocity
        plane -= plane.mean(0)
    return plane


def draw_vectors(vectors: Mapping[str, np.ndarray], path: str | os.PathLike, method: str = 'pca') -> Path:
    """Write a PNG of task vectors.

    Args:
        vectors: ``(K, ...)`` by task; more than one axis of a description is flattened.
        path: The file.
        method: ``'pca'`` or ``'tsne'``.

    Raises:
        ValueError: The method is unknown, or there are too few vectors.
    """
    if method not in METHODS:
        raise ValueError(f'method={method!r} must be one of {", ".join(METHODS)}')
    points = np.concatenate([own.reshape(len(own), -1) for own in vectors.values()]).astype(np.float64)
    scale = points.std(0)
    points = (points - points.mean(0)) / np.where(scale > 0, scale, 1)
    plane = (pca_plane if method == 'pca' else tsne_plane)(points)
    owner = np.repeat(np.arange(len(vectors)), [len(own) for own in vectors.values()])
    figure = Figure(figsize=(6, 6), layout='constrained')
    axes = figure.subplots()
    axes.scatter(*plane.T, c=owner, cmap='turbo', s=9)
    axes.set_title(f'{len(points)} support sets of {len(vectors)} tasks ({"PCA" if method == "pca" else "t-SNE"})')
    axes.set_xticks([])
    axes.set_yticks([])
    return write_atomically(path, lambda file: figure.savefig(file, format='png', dpi=150))


def _squared(points: np.ndarray) -> np.ndarray:
    norms = (points**2).sum(1)
    return np.maximum(norms[:, None] + norms - 2 * points @ points.T, 0)


def _affinities(points: np.ndarray, perplexity: float) -> np.ndarray:
    """Return symmetric affinities whose rows have the perplexity, by bisection of the widths."""
    squared, wanted = _squared(points), np.log(perplexity)
    squared /= max(squared.mean(), _TINY)
    np.fill_diagonal(squared, np.inf)
    nearest = squared.min(1, keepdims=True)
    low, high = np.full((len(points), 1), 1e-6), np.full((len(points), 1), 1e6)
    for _ in range(60):
        beta = np.sqrt(low * high)
        weight = np.exp(-beta * (squared - nearest))
        p = weight / weight.sum(1, keepdims=True)
        entropy = -(p * np.log(np.maximum(p, _TINY))).sum(1, keepdims=True)
        low, high = np.where(entropy > wanted, beta, low), np.where(entropy > wanted, high, beta)
    return np.maximum((p + p.T) / (2 * len(points)), _TINY)
