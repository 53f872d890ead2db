"""Few-shot accuracy of features, as a metric."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric

from ..episodes import check_episode_size, draw_episode, positions_by_class
from ..registry import METRICS, register
from .paired import EpisodeScores, images_digest
from .prototypes import SCORES, mean_and_interval, prototype_accuracy


def episode_accuracies(
    features: np.ndarray,
    labels: np.ndarray,
    n_way: int = 5,
    n_shot: int = 5,
    n_query: int = 15,
    n_episodes: int = 600,
    seed: int = 0,
    metric: str = 'cosine',
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Return the nearest-prototype accuracy of each episode.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        n_way: Classes of an episode.
        n_shot: Support images of a class.
        n_query: Query images of a class.
        n_episodes: How many episodes; episode ``i`` is drawn from ``(seed, i)``.
        seed: Seed of the series.
        metric: ``'cosine'`` or ``'euclidean'``.
        classes: Names of the classes, for error messages.

    Returns:
        ``(n_episodes,)`` in 0..1.

    Raises:
        ValueError: The labels cannot fill such episodes, or a number is out of range.
    """
    if len(features) != len(labels):
        raise ValueError(f'{len(features)} features do not fit {len(labels)} labels')
    positions = positions_by_class(labels)
    check_episode_size(positions, n_way, n_shot, n_query, classes)
    values = np.empty(n_episodes)
    for number in range(n_episodes):
        episode = draw_episode(positions, n_way, n_shot, n_query, seed, number)
        values[number] = prototype_accuracy(features[episode.support], features[episode.query], metric)
    return values


@register(METRICS)
class EpisodeAccuracy(BaseMetric):
    """Nearest-prototype accuracy over episodes drawn from all samples of an evaluation, each embedded once.

    Results, in percent: ``episode/accuracy`` and ``episode/interval``, the half width of the 95 % interval.

    Args:
        n_way: Classes of an episode.
        n_shot: Support images of a class.
        n_query: Query images of a class.
        n_episodes: How many episodes.
        seed: Seed of the series of episodes.
        metric: ``'cosine'`` or ``'euclidean'``.
        feature_key: Field of a data sample that holds its feature vector.
        save: A JSON file for the accuracy of each episode, which :class:`EpisodeScores` reads to compare two tests;
            None writes none.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: An unknown ``metric``, or a number is out of range: an interval needs at least 2 episodes.
    """

    default_prefix = 'episode'

    def __init__(
        self,
        n_way: int = 5,
        n_shot: int = 5,
        n_query: int = 15,
        n_episodes: int = 600,
        seed: int = 0,
        metric: str = 'cosine',
        feature_key: str = 'feature',
        save: str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> None:
        if metric not in SCORES:
            raise ValueError(f'metric={metric!r} is unknown; choose from {", ".join(SCORES)}')
        super().__init__(**kwargs)
        self.episodes = dict(n_way=n_way, n_shot=n_shot, n_query=n_query, n_episodes=n_episodes, seed=seed)
        for name, least in dict(n_way=1, n_shot=1, n_query=1, n_episodes=2, seed=0).items():
            value = self.episodes[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'{name} must be a whole number of at least {least}, got {value!r}')
        self.metric = metric
        self.feature_key = feature_key
        self.save = save
        self.scores: EpisodeScores | None = None

    def check(self, labels: Sequence[int] | np.ndarray, classes: Sequence[str] | None = None) -> None:
        """Check that images with these labels can fill the episodes.

        Raises:
            ValueError: They cannot; the message names the smallest class.
        """
        sizes = {name: self.episodes[name] for name in ('n_way', 'n_shot', 'n_query')}
        check_episode_size(positions_by_class(labels), **sizes, classes=classes)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the feature and the label of each sample.

        Raises:
            ValueError: A sample has no feature.
        """
        for sample in data_samples:
            if self.feature_key not in sample:
                raise ValueError(f'a data sample has no field {self.feature_key!r}, only {sorted(sample)}')
            feature = torch.as_tensor(sample[self.feature_key]).detach().float().cpu().flatten().numpy()
            self.results.append((feature, int(sample['gt_label'])))

    def compute_metrics(self, results: list[tuple[np.ndarray, int]]) -> dict[str, float]:
        """Draw the episodes and average."""
        features = np.stack([feature for feature, _ in results])
        labels = np.array([label for _, label in results])
        classes = (self.dataset_meta or {}).get('classes')
        values = episode_accuracies(features, labels, metric=self.metric, classes=classes, **self.episodes)
        return self.summarize(values, labels, classes)

    def summarize(
        self, values: np.ndarray, labels: Sequence[int] | np.ndarray, classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Average the accuracies of the episodes, keep them as ``scores``, and write them to ``save``.

        Names of the results have no prefix.

        Args:
            values: ``(n_episodes,)`` in 0..1.
            labels: Of the images that the episodes were drawn from.
            classes: Names of the classes.
        """
        self.scores = EpisodeScores(100 * np.asarray(values), dict(self.episodes), images_digest(labels, classes))
        if self.save is not None and is_main_process():
            self.scores.write(self.save)
        accuracy, interval = mean_and_interval(self.scores.accuracies)
        return dict(accuracy=accuracy, interval=interval)
