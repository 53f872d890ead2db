"""Mean average precision that says which classes it leaves out."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..registry import METRICS, register
from .classwise import ClasswiseMetric, class_indicators


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the precision-recall curve, as a sum of steps.

    Images of one score enter together, so that the result does not depend on the order of the images.

    Args:
        scores: ``(N,)``, finite.
        positive: bool ``(N,)``.

    Returns:
        A number in 0..1; nan without a positive.
    """
    order = np.argsort(-np.asarray(scores), kind='stable')
    scores, positive = np.asarray(scores)[order], np.asarray(positive, dtype=bool)[order]
    if not positive.any():
        return float('nan')
    last_of_score = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found = np.cumsum(positive)[last_of_score]  # positives at or above each distinct score
    precision = found / (last_of_score + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / positive.sum())


@register(METRICS)
class MeanAveragePrecision(ClasswiseMetric):
    """Average precision of each class, averaged over classes.

    Equal to mmpretrain's ``AveragePrecision`` where each class has a positive image and no two images have one score.
    That one counts 0 for a class without a positive image, which pulls the mean down by what no model can change, and
    takes images of one score in the order of sorting.

    Results, in percent: ``multi-label/mAP`` and the number ``multi-label/undefined_classes`` of classes that the mean
    leaves out; or, with ``average=None``, the list ``multi-label/AP_classwise``.

    Args:
        average: ``'macro'`` or None, see above.
        undefined: What becomes of a class without a positive image: ``'report'`` leaves it out of the mean, counts it
            and names it in the log; ``'zero'`` counts it as 0, as mmpretrain and published numbers do; ``'nan'`` makes
            the mean nan; ``'error'`` raises.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: An unknown ``average`` or ``undefined``.
    """

    default_prefix = 'multi-label'
    mean_name = 'mAP'
    values_name = 'AP_classwise'
    treatments = ('report', 'zero', 'nan', 'error')

    def target_of(self, sample: Mapping[str, Any], n_classes: int) -> np.ndarray:
        """Return the ``(C,)`` indicators of an image."""
        return class_indicators(sample, n_classes)

    def values_by_class(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the average precision of each class."""
        known = targets >= 0
        columns = zip(scores.T, targets.T, known.T, strict=True)
        return np.array([average_precision(s[k], t[k] == 1) for s, t, k in columns])
