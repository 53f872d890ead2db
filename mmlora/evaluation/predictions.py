"""What a classifier said of each test image, in a file that a report can be made from.

The file is plain JSON; a pickle of the same would be a program. ``labels``, ``predictions`` and ``scores`` hold one
entry for each image in the order of the data set, and ``errors`` small pictures of the most confident errors.
"""

import base64
import binascii
import io
import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from PIL import Image

from ..io.atomic import write_text
from ..io.json_object import read_object
from ..registry import METRICS, register

FORMAT = 'mmlora predictions 1'
LARGEST_PICTURE = 512
MOST_CLASSES = 1 << 20
_REMEDY = 'delete it and test again with tools/test.py'


@dataclass(frozen=True)
class ErrorPicture:
    """A picture of a misclassified image.

    Attributes:
        index: Number of the image in the data set.
        path: Its file, relative to the data; None where there is none.
        png: The picture, small, as PNG in base64; None where it could not be read.
    """

    index: int
    path: str | None
    png: str | None


@dataclass(frozen=True)
class Predictions:
    """What a classifier said of each image.

    Attributes:
        labels: ``(N,)`` the right classes.
        predictions: ``(N,)`` the classes that it chose.
        scores: ``(N,)`` the score of the chosen class; 0..1 for a softmax.
        classes: Names of the classes; empty where they are not known.
        errors: The most confident errors first; not necessarily all.
    """

    labels: Sequence[int]
    predictions: Sequence[int]
    scores: Sequence[float]
    classes: Sequence[str] = ()
    errors: Sequence[ErrorPicture] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Check the lengths and the types.

        Raises:
            ValueError: There are no images, columns differ in length, or an entry is of a wrong type.
        """
        sizes = {len(self.labels), len(self.predictions), len(self.scores)}
        if len(sizes) != 1 or sizes == {0}:
            raise ValueError(f'labels, predictions and scores must be as many as there are images, got {sorted(sizes)}')
        most = len(self.classes) or MOST_CLASSES
        for name in ('labels', 'predictions'):
            if not all(type(v) is int and 0 <= v < most for v in getattr(self, name)):
                raise ValueError(f'{name} must be numbers of classes from 0 to {most - 1}')
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in self.scores):
            raise ValueError('scores must be finite numbers')
        if not all(isinstance(name, str) for name in self.classes):
            raise ValueError('classes must be names')
        if not all(type(one.index) is int and 0 <= one.index < len(self.labels) for one in self.errors):
            raise ValueError('errors must name images by their numbers')

    def name_of(self, label: int) -> str:
        """Return the name of a class, or its number."""
        return self.classes[label] if self.classes else str(label)

    @property
    def size(self) -> int:
        """The number of classes: of those with names, else up to the largest label that occurs."""
        return len(self.classes) or max(*self.labels, *self.predictions) + 1

    def most_confident_errors(self, limit: int) -> list[int]:
        """Return the numbers of misclassified images, those with the largest scores first."""
        wrong = np.flatnonzero(np.asarray(self.labels) != np.asarray(self.predictions))
        order = np.argsort(-np.asarray(self.scores, dtype=np.float64)[wrong], kind='stable')
        return wrong[order[:limit]].tolist()

    def confusions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return right class, chosen class and count, each ``(P,)``, of the pairs that occur, in the order of classes.

        A matrix of all classes would take the square of their number, whatever a file says that this is.
        """
        pairs, counts = np.unique(np.array([self.labels, self.predictions], dtype=np.int64), axis=1,
                                  return_counts=True)
        return pairs[0], pairs[1], counts

    def write(self, path: str | os.PathLike) -> Path:
        """Write a file that :meth:`read` reads, and return it."""
        content = dict(
            format=FORMAT, classes=list(self.classes), labels=list(self.labels), predictions=list(self.predictions),
            scores=[round(float(score), 5) for score in self.scores], errors=[asdict(one) for one in self.errors],
        )
        return write_text(path, json.dumps(content, allow_nan=False, ensure_ascii=False) + '\n')

    @classmethod
    def read(cls, path: str | os.PathLike) -> 'Predictions':
        """Read a file that :meth:`write` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        content = read_object(Path(path), _REMEDY, FORMAT)
        try:
            columns = {name: list(content[name]) for name in ('labels', 'predictions', 'scores', 'classes')}
            errors = tuple(ErrorPicture(**one) for one in content['errors'])
            return cls(**columns, errors=errors)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{path} does not hold predictions ({error}): {_REMEDY}') from error


def decode_picture(png: str) -> Image.Image:
    """Read a picture of an error.

    Raises:
        ValueError: It is no small PNG.
    """
    try:
        image = Image.open(io.BytesIO(base64.b64decode(png, validate=True)), formats=('PNG', ))
        if max(image.size) > LARGEST_PICTURE:
            raise ValueError(f'it has {image.size} pixels, at most {LARGEST_PICTURE} a side are expected')
        return image.convert('RGB')
    except (binascii.Error, OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f'a picture of an error is no small PNG ({error})') from error


@register(METRICS)
class KeepPredictions(BaseMetric):
    """Keeps what a classifier says of each image, and gives no number.

    It stops no test: ``kept`` holds what was collected after an evaluation, in the first process; where it cannot be
    kept, as where images have several labels, ``kept`` is None, ``why`` says the reason, and a line of the log too.
    """

    default_prefix = ''  # Else mmengine warns of a name that no number has.

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kept: Predictions | None = None
        self.why: str | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep label, chosen class and score of each sample."""
        self.results += [_of_sample(sample) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[int, int, float] | str]) -> dict[str, float]:
        """Keep what was collected from all processes."""
        self.kept, self.why = None, next((one for one in results if isinstance(one, str)), None)
        if self.why is None:
            try:
                self.kept = self._keep(results)
            except ValueError as error:
                self.why = str(error)
        if self.why is not None:
            print_log(f'The predictions are not kept for tools/report.py: {self.why}.', logger='current',
                      level=logging.INFO if self.why in _ORDINARY else logging.WARNING)
        return {}

    def _keep(self, results: Sequence[tuple[int, int, float]]) -> Predictions:
        labels, predictions, scores = ([row[column] for row in results] for column in range(3))
        classes = [str(name) for name in (self.dataset_meta or {}).get('classes') or ()]
        if classes:  # A head may have more outputs than the data have classes.
            most = min(max(labels + predictions, default=0) + 1, MOST_CLASSES)
            classes += [f'output {number}' for number in range(len(classes), most)]
        return Predictions(labels, predictions, scores, classes)


_SEVERAL, _NO_CLASSES = 'images have several labels', 'the model gives no scores of classes, or images have no label'
_ORDINARY = (_SEVERAL, _NO_CLASSES)


def _of_sample(sample: dict[str, Any]) -> tuple[int, int, float] | str:
    """Return label, chosen class and score, or the reason why there are none."""
    label, chosen, scores = (sample.get(name) for name in ('gt_label', 'pred_label', 'pred_score'))
    if any(value is None for value in (label, chosen, scores)):
        return _NO_CLASSES
    try:
        label, chosen, scores = (torch.as_tensor(value).flatten() for value in (label, chosen, scores))
    except (TypeError, ValueError, RuntimeError) as error:
        return f'labels or scores of an image are no numbers ({error})'
    if len(label) != 1 or len(chosen) != 1:
        return _SEVERAL
    if not 0 <= int(chosen) < len(scores):
        return f'class {int(chosen)} was chosen of an image with {len(scores)} scores'
    if not bool(torch.isfinite(scores).all()):
        return 'the scores of an image are NaN or infinite'
    return int(label), int(chosen), float(scores[int(chosen)])
