"""Area under the ROC curve, by class, for data of several labels and of one label an image.

The area is the chance that a positive image is scored above a negative one, a tie counting one half (Hanley and
McNeil, Radiology 1982), which is a rank sum with midranks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..registry import METRICS, register
from .classwise import ClasswiseMetric, class_indicators, class_label

MODES = {'multilabel': class_indicators, 'multiclass': class_label}
"""Mode -> how the ground truth of a sample is read."""


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve.

    Args:
        scores: ``(N,)``, finite.
        positive: bool ``(N,)``.

    Returns:
        A number in 0..1; nan without a positive or without a negative.
    """
    from scipy.stats import rankdata  # its import is slow, and few runs need it

    positive = np.asarray(positive, dtype=bool)
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if not n_positive or not n_negative:
        return float('nan')
    rank_sum = rankdata(scores)[positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


@register(METRICS, 'AUC')
class ROCAUC(ClasswiseMetric):
    """Area under the ROC curve of each class, averaged over classes.

    Results, in percent: ``auc/mean`` and the number ``auc/undefined_classes`` of classes that the mean leaves out; or,
    with ``average=None``, the list ``auc/per_class``. A class without a positive or without a negative image has no
    area.

    Args:
        mode: ``'multilabel'``: each class on its own, from ``gt_score`` (-1 leaves an image out for that class) or
            ``gt_label``. ``'multiclass'``: one class against the rest; for two classes this is the plain area.
        average: ``'macro'`` or None, see above.
        undefined: What becomes of a class without an area: ``'report'`` leaves it out of the mean, counts it and names
            it in the log; ``'nan'`` makes the mean nan; ``'error'`` raises; ``'reference'`` counts the area of the
            class before it once more, as the published code of SR-LoRA does with old releases of scikit-learn.
        softmax_again: For ``'multiclass'``, normalise the scores once more by a softmax, as that code does with scores
            that are probabilities already. It changes the area for more than two classes.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: An unknown ``mode``, ``average`` or ``undefined``, or ``softmax_again`` with several labels.
    """

    default_prefix = 'auc'
    treatments = ('report', 'nan', 'error', 'reference')
    why_undefined = 'no positive or no negative image'

    def __init__(self, mode: str, average: str | None = 'macro', undefined: str = 'report',
                 softmax_again: bool = False, **kwargs: Any) -> None:
        if mode not in MODES:
            raise ValueError(f'mode={mode!r} is unknown; choose from {", ".join(MODES)}')
        if softmax_again and mode != 'multiclass':
            raise ValueError(f"softmax_again is for mode='multiclass', not {mode!r}")
        super().__init__(average=average, undefined=undefined, **kwargs)
        self.mode = mode
        self.softmax_again = softmax_again

    def target_of(self, sample: Mapping[str, Any], n_classes: int) -> Any:
        """Return ``(C,)`` indicators or one label, by mode."""
        return MODES[self.mode](sample, n_classes)

    def values_by_class(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the area of each class."""
        if self.softmax_again:
            from scipy.special import softmax

            scores = softmax(scores, axis=1)
        if self.mode == 'multiclass':
            targets = targets[:, None] == np.arange(scores.shape[1])  # (N,) -> (N, C)
        known = targets >= 0
        return np.array([roc_auc(s[k], t[k] == 1) for s, t, k in zip(scores.T, targets.T, known.T, strict=True)])
