"""Accuracy for data whose classes are of unequal size: balanced accuracy and Cohen's kappa.

A classifier that always names the largest class has a good accuracy on such data, but the balanced accuracy ``1 / C``
and the kappa 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from ..registry import METRICS, register
from .classwise import ClasswiseMetric, class_label, class_scores


def recalls(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the part of each class's images that is recognised.

    Args:
        predicted: ``(N,)`` class indices.
        labels: ``(N,)`` class indices.
        n_classes: C.

    Returns:
        ``(C,)`` in 0..1, nan for a class without images.
    """
    total = np.bincount(labels, minlength=n_classes)
    right = np.bincount(labels[predicted == labels], minlength=n_classes)
    return np.divide(right, total, out=np.full(n_classes, np.nan), where=total > 0)


WEIGHTS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda distance: (distance > 0).astype(float),
    'linear': lambda distance: distance.astype(float),
    'quadratic': lambda distance: distance.astype(float) ** 2,
}
"""Weights of Cohen's kappa: how much an error counts, by the distance of the classes' indices."""


def cohen_kappa(predicted: np.ndarray, labels: np.ndarray, n_classes: int, weights: str | None = None) -> float:
    """Return the agreement beyond chance (Cohen, 1960; weighted: Cohen, 1968).

    Args:
        predicted: ``(N,)`` class indices.
        labels: ``(N,)`` class indices.
        n_classes: C.
        weights: Key of ``WEIGHTS``.

    Returns:
        At most 1; 0 is chance; nan where all images and all predictions are of one class.
    """
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (labels, predicted), 1)
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    classes = np.arange(n_classes)
    cost = WEIGHTS[weights](np.abs(classes[:, None] - classes))
    expected = (cost * by_chance).sum()
    return float(1 - (cost * counts).sum() / expected) if expected else float('nan')


@register(METRICS)
class BalancedAccuracy(ClasswiseMetric):
    """Mean over classes of the part of their images that is recognised.

    Results, in percent: ``accuracy/balanced`` and the number ``accuracy/undefined_classes`` of classes without images,
    which the mean leaves out; or, with ``average=None``, the list ``accuracy/recall_classwise``.

    Args:
        average: ``'macro'`` or None, see above.
        undefined: What becomes of a class without images: ``'report'`` leaves it out of the mean, counts it and names
            it in the log; ``'nan'`` makes the mean nan; ``'error'`` raises.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: An unknown ``average`` or ``undefined``.
    """

    default_prefix = 'accuracy'
    mean_name = 'balanced'
    values_name = 'recall_classwise'
    why_undefined = 'no image'

    def target_of(self, sample: Mapping[str, Any], n_classes: int) -> int:
        """Return the label of an image."""
        return class_label(sample, n_classes)

    def values_by_class(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the recall of each class."""
        return recalls(scores.argmax(axis=1), targets, scores.shape[1])


@register(METRICS)
class CohenKappa(BaseMetric):
    """Agreement of predictions and labels beyond chance, in percent: ``kappa/unweighted`` or ``kappa/<weights>``.

    Args:
        weights: None counts each error alike; ``'quadratic'`` and ``'linear'`` count it by the distance of the classes,
            for ordered classes such as the grades of a disease.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: Unknown ``weights``.
    """

    default_prefix = 'kappa'

    def __init__(self, weights: str | None = None, **kwargs: Any) -> None:
        if weights not in WEIGHTS:
            raise ValueError(f'weights={weights!r} is unknown; choose from {", ".join(map(repr, WEIGHTS))}')
        super().__init__(**kwargs)
        self.weights = weights

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep prediction and label of each sample.

        Raises:
            ValueError: A score is not finite, or the label does not fit the scores.
        """
        for sample in data_samples:
            scores = class_scores(sample)
            self.results.append((int(scores.argmax()), class_label(sample, len(scores)), len(scores)))

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        """Compute the agreement.

        Raises:
            ValueError: There are no images.
        """
        if not results:
            raise ValueError('CohenKappa was given no images')
        predicted, labels, n_classes = np.array(results).T
        value = cohen_kappa(predicted, labels, int(n_classes[0]), self.weights)
        return {self.weights or 'unweighted': 100 * value}
