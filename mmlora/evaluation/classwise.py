"""Metrics that have one value a class, and what becomes of a class for which the value is not defined.

A class without a positive image has no ROC curve and no recall. Published code fills such a gap without a word: with 0,
or with the value of the class before it. Here it is left out of the mean and reported, or whatever is asked for.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log


def mean_of_defined(values: np.ndarray) -> float:
    """Return the mean over the classes that have a value."""
    return float(values[~np.isnan(values)].mean())


def mean_with_previous(values: np.ndarray) -> float:
    """Return the mean where a class without a value counts with that of the class before it.

    This is what a published evaluation did by mistake, for comparison with its numbers.

    Raises:
        ValueError: The first class has no value.
    """
    if np.isnan(values[0]):
        raise ValueError("the first class has no value, so undefined='reference' has none before it to repeat")
    places = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return float(values[places].mean())


UNDEFINED: dict[str, Callable[[np.ndarray], float]] = {
    'report': mean_of_defined,
    'error': mean_of_defined,
    'nan': lambda values: float(values.mean()),
    'zero': lambda values: float(np.nan_to_num(values).mean()),
    'reference': mean_with_previous,
}
"""Name of a treatment of undefined classes -> the mean of ``(C,)`` values, nan where undefined."""


def class_scores(sample: Mapping[str, Any]) -> np.ndarray:
    """Return the scores of a data sample as float64 ``(C,)``.

    Raises:
        ValueError: There are none, or one is not finite.
    """
    if 'pred_score' not in sample:
        raise ValueError(f'a data sample has no field pred_score, only {sorted(sample)}')
    scores = torch.as_tensor(sample['pred_score']).detach().cpu().double().flatten().numpy()
    if not np.isfinite(scores).all():
        raise ValueError(f'the scores of {sample.get("img_path", "an image")} are not finite ({scores}): the model has '
                         'diverged')
    return scores


def class_indicators(sample: Mapping[str, Any], n_classes: int) -> np.ndarray:
    """Return which classes an image belongs to, as int8 ``(C,)``: 1 yes, 0 no, -1 not known.

    Args:
        sample: A data sample with ``gt_score`` (one entry a class) or ``gt_label`` (indices of classes, maybe none).
        n_classes: C.

    Raises:
        ValueError: The sample has neither, or does not fit ``n_classes``.
    """
    if 'gt_score' in sample:
        target = torch.as_tensor(sample['gt_score']).cpu().flatten().numpy()
        if target.shape != (n_classes,):
            raise ValueError(f'an image has {target.size} entries in gt_score and {n_classes} scores')
        if not np.isin(target, (-1, 0, 1)).all():
            raise ValueError(f'gt_score must hold 1, 0 or -1 (not known), got {target}')
        return target.astype(np.int8)
    target = np.zeros(n_classes, np.int8)
    target[class_labels(sample, n_classes)] = 1
    return target


def class_labels(sample: Mapping[str, Any], n_classes: int) -> np.ndarray:
    """Return the indices in ``gt_label`` as int64 ``(n,)``.

    Raises:
        ValueError: There is no ``gt_label``, or an index does not fit ``n_classes``.
    """
    if 'gt_label' not in sample:
        raise ValueError(f'a data sample has no ground truth (gt_label or gt_score), only {sorted(sample)}')
    labels = torch.as_tensor(sample['gt_label']).cpu().flatten().numpy().astype(np.int64)
    if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(f'gt_label {labels.tolist()} does not fit the {n_classes} scores of the model: set '
                         'num_classes of its head as in the data')
    return labels


def class_label(sample: Mapping[str, Any], n_classes: int) -> int:
    """Return the one class of an image.

    Raises:
        ValueError: It has none or several, or one that does not fit ``n_classes``.
    """
    labels = class_labels(sample, n_classes)
    if labels.size != 1:
        raise ValueError(f'an image has the labels {labels.tolist()}, but each must have one here')
    return int(labels[0])


class ClasswiseMetric(BaseMetric):
    """A metric with one value a class.

    A subclass sets the names of its results and which ``treatments`` of ``UNDEFINED`` it knows, reads the ground truth
    of a sample in :meth:`target_of`, and computes the values in :meth:`values_by_class`.

    Args:
        average: ``'macro'`` gives the mean over classes and the number of undefined ones; None gives the values by
            class, nan where undefined.
        undefined: What becomes of a class whose value is not defined: ``'report'`` leaves it out of the mean, counts
            it in ``undefined_classes`` and names it in the log; ``'nan'`` makes the mean nan; ``'error'`` raises.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: ``average`` or ``undefined`` is unknown.
    """

    mean_name = 'mean'
    values_name = 'per_class'
    treatments: tuple[str, ...] = ('report', 'nan', 'error')
    why_undefined = 'no positive image'

    def __init__(self, average: str | None = 'macro', undefined: str = 'report', **kwargs: Any) -> None:
        if average not in ('macro', None):
            raise ValueError(f"average must be 'macro' or None (by class), got {average!r}")
        if undefined not in self.treatments:
            raise ValueError(f'undefined={undefined!r} is unknown; choose from {", ".join(self.treatments)}')
        super().__init__(**kwargs)
        self.average = average
        self.undefined = undefined

    def target_of(self, sample: Mapping[str, Any], n_classes: int) -> Any:
        """Return the ground truth of a sample."""
        raise NotImplementedError

    def values_by_class(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return ``(C,)`` values in 0..1, nan where undefined, from ``(N, C)`` scores and N targets."""
        raise NotImplementedError

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep scores and ground truth of each sample.

        Raises:
            ValueError: A score is not finite, or the ground truth does not fit the scores.
        """
        for sample in data_samples:
            scores = class_scores(sample)
            self.results.append((scores, self.target_of(sample, len(scores))))

    def compute_metrics(self, results: list[tuple[np.ndarray, Any]]) -> dict[str, Any]:
        """Compute the values of the classes, in percent, and their mean.

        Raises:
            ValueError: There are no images, no class has a value, or one has none and ``undefined='error'``.
        """
        if not results:
            raise ValueError(f'{type(self).__name__} was given no images')
        scores, targets = (np.stack(column) for column in zip(*results, strict=True))
        values = 100 * self.values_by_class(scores, targets)
        missing = self._missing_names(values)
        if missing:
            what = f'{type(self).__name__} is not defined for {len(missing)} of {len(values)} classes '
            what += f'({self.why_undefined} among {len(scores)}): {", ".join(missing)}'
            if self.undefined == 'error' or (len(missing) == len(values) and self.undefined not in ('nan', 'zero')):
                raise ValueError(f'{what}. Evaluate on images of all classes, or see the argument undefined')
            print_log(f'{what}; undefined={self.undefined!r}', 'current', logging.WARNING)
        if self.average is None:
            return {self.values_name: values.tolist()}
        return {self.mean_name: UNDEFINED[self.undefined](values), 'undefined_classes': len(missing)}

    def _missing_names(self, values: np.ndarray) -> list[str]:
        names = (self.dataset_meta or {}).get('classes') or ()
        return [names[i] if len(names) == len(values) else str(i) for i in np.flatnonzero(np.isnan(values))]
