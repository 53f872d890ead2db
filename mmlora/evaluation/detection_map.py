"""Mean average precision of detected boxes, by COCO's rules.

Matching and averaging are done by ``faster-coco-eval``, a maintained implementation of COCO's evaluation. The published
test of ICM-LoRA (IJCAI 2025, arXiv 2501.17635) writes two decimals; here nothing is rounded.
"""

import contextlib
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from torch import Tensor

from .._requirements import install_extra
from ..io.atomic import write_text
from ..io.location_tokens import box_pixels
from ..registry import METRICS, register

NAMES = ('mAP_50_95', 'mAP_50', 'mAP_75')
MAX_BOXES = 100
"""Boxes of an image and class that count, as COCO has it: those of the highest scores."""


@dataclass(frozen=True)  # mmengine would make plain tuples of named ones.
class Boxes:
    """Boxes of one image.

    Attributes:
        names: Class of each.
        corners: ``(n, 4)`` in pixels: left, top, right, bottom.
        scores: Confidence of each; of annotated boxes they mean nothing.
    """

    names: Sequence[str]
    corners: Tensor
    scores: Sequence[float]


def detection_map(
    truth: Sequence[Boxes], found: Sequence[Boxes], classes: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """Return the average precision of each class at IoU 0.50 to 0.95 in steps of 0.05, at 0.50 and at 0.75.

    Args:
        truth: Annotated boxes of each image.
        found: Detected boxes of the same images, in any order within an image.
        classes: The classes that count; boxes of others are left out.

    Returns:
        Numbers in 0..1 by class; nan for a class without an annotated box.

    Raises:
        ImportError: faster-coco-eval is not installed.
        ValueError: There is not one list of detected boxes for each image.
    """
    coco, evaluator = _coco()
    if len(truth) != len(found):
        raise ValueError(f'{len(truth)} images have annotated boxes, and {len(found)} have detected ones')
    numbers = {name: number for number, name in enumerate(classes, 1)}
    annotations, results = _records(truth, numbers), _records(found, numbers)
    values = np.full((10, len(numbers)), -1.0)
    if annotations:
        images = [dict(id=number) for number in range(1, len(truth) + 1)]
        categories = [dict(id=number, name=name) for name, number in numbers.items()]
        expected = coco(dict(images=images, annotations=annotations, categories=categories))
        detected = coco(dict(images=images, annotations=results, categories=categories))
        with contextlib.redirect_stdout(io.StringIO()):
            run = evaluator(expected, detected, 'bbox', print_function=_say_nothing)
            run.params.maxDets = [MAX_BOXES]
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ['all']
            run.evaluate()
            run.accumulate()
        values = run.eval['precision'][:, :, :, 0, 0].mean(axis=1)  # (IoU, recall, class) -> (IoU, class)
    table = {name: values[:, place] for place, name in enumerate(numbers)}
    return {name: _of_class(column) for name, column in table.items()}


def _of_class(column: np.ndarray) -> tuple[float, float, float]:
    if (column < 0).any():
        return (math.nan,) * 3
    return float(column.mean()), float(column[0]), float(column[5])


def _records(images: Sequence[Boxes], numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return boxes as COCO lists them; one that ends before it begins gets no area, and so matches nothing."""
    records = []
    for image, boxes in enumerate(images, 1):
        for name, corners, score in zip(boxes.names, boxes.corners.tolist(), boxes.scores, strict=True):
            if name in numbers:
                left, top = corners[:2]
                width, height = max(corners[2] - left, 0.0), max(corners[3] - top, 0.0)
                records.append(dict(
                    id=len(records) + 1, image_id=image, category_id=numbers[name], bbox=[left, top, width, height],
                    area=width * height, iscrowd=0, score=float(score),
                ))  # fmt: skip
    return records


def _say_nothing(*args: Any) -> None:
    pass


def _coco() -> tuple[type, type]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(f'DetectionMAP needs faster-coco-eval: {install_extra("florence")}') from error
    return COCO, COCOeval_faster


@register(METRICS)
class DetectionMAP(BaseMetric):
    """mAP of boxes at IoU 0.50 to 0.95, at 0.50 and at 0.75, in 0..1.

    The classes are those of the data set; detected boxes of others do not count, and classes without an annotated box
    are left out of the means. Data samples need ``gt_names``, ``gt_bins``, ``pred_names``, ``pred_bins`` and
    ``pred_scores``, and the size of the image as ``ori_shape``.

    Args:
        csv_file: Where the means and the values of each class are written without rounding, as a table; None writes
            none.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        ImportError: faster-coco-eval is not installed.
        ValueError: ``csv_file`` does not end in ``.csv``.
    """

    default_prefix = 'detection'

    def __init__(self, csv_file: str | None = None, **kwargs: Any) -> None:
        _coco()  # Before hours of training.
        if csv_file is not None and Path(csv_file).suffix != '.csv':
            raise ValueError(f'csv_file={csv_file!r} must end in .csv')
        super().__init__(**kwargs)
        self.csv_file = csv_file

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the boxes of a batch.

        Raises:
            ValueError: A data sample lacks boxes.
        """
        for sample in data_samples:
            lacking = [key for key in ('gt_names', 'gt_bins', 'pred_names', 'pred_bins', 'pred_scores', 'ori_shape')
                       if key not in sample]
            if lacking:
                raise ValueError(f'a data sample has no {lacking[0]}, only {sorted(sample)}: DetectionMAP needs a '
                                 'FlorenceDetection data set, whose PackInputs names prefix, suffix, gt_names and '
                                 'gt_bins in algorithm_keys, and a FlorenceDetector')
            size = sample['ori_shape'][:2]
            truth = Boxes(sample['gt_names'], box_pixels(sample['gt_bins'], *size), [1.0] * len(sample['gt_names']))
            found = Boxes(sample['pred_names'], box_pixels(sample['pred_bins'], *size), sample['pred_scores'])
            self.results.append((truth, found))

    def compute_metrics(self, results: list[tuple[Boxes, Boxes]]) -> dict[str, float]:
        """Return the means over the classes, and write the table.

        Raises:
            ValueError: The data set has no classes, or no image has a box of one.
        """
        classes = (self.dataset_meta or {}).get('classes') or ()
        table = detection_map([truth for truth, _ in results], [found for _, found in results], classes)
        counted = [values for values in table.values() if not math.isnan(values[0])]
        if not counted:
            raise ValueError(f'none of the {len(results)} images has an annotated box of the classes {list(classes)}')
        means = dict(zip(NAMES, np.mean(counted, axis=0).tolist(), strict=True))
        if self.csv_file:
            write_text(self.csv_file, as_csv({'mean': tuple(means.values()), **table}))
        return means


def as_csv(table: Mapping[str, Sequence[float]]) -> str:
    """Return a table of values by class as text; nan becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(('class', *NAMES))
    for name, values in table.items():
        writer.writerow((name, *('' if math.isnan(value) else repr(float(value)) for value in values)))
    return text.getvalue()
