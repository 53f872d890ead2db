"""mAP of boxes against values worked out by hand."""

import csv
import math

import pytest
import torch
from mmengine.evaluator import Evaluator

import mmlora  # noqa: F401
from mmlora.evaluation.detection_map import Boxes, DetectionMAP, detection_map

pytest.importorskip('faster_coco_eval')

HALF = 51 / 101
"""Area under a precision of 1 up to a recall of a half: 51 of the 101 points 0, 0.01 ... 1."""


def boxes(names, corners=(), scores=None):
    names = names.split()
    return Boxes(names, torch.tensor(corners, dtype=torch.float64).reshape(-1, 4), scores or [1.0] * len(names))


SQUARE, FAR = [0, 0, 10, 10], [50, 50, 60, 60]
CASES = {
    # images of (annotated, detected), and the values of 'dog'
    'exact': ([(boxes('dog', [SQUARE]), boxes('dog', [SQUARE]))], (1, 1, 1)),
    'none found': ([(boxes('dog', [SQUARE]), boxes(''))], (0, 0, 0)),
    'another class': ([(boxes('dog', [SQUARE]), boxes('cat', [SQUARE]))], (0, 0, 0)),
    # IoU 0.6 counts at 0.50, 0.55 and 0.60.
    'IoU 0.6': ([(boxes('dog', [SQUARE]), boxes('dog', [[0, 0, 10, 6]]))], (0.3, 1, 0)),
    'IoU 0.8': ([(boxes('dog', [SQUARE]), boxes('dog', [[0, 0, 8, 10]]))], (0.7, 1, 1)),
    'one of two': ([(boxes('dog dog', [SQUARE, FAR]), boxes('dog', [FAR]))], (HALF, HALF, HALF)),
    # The second box of one object is false: it comes behind, so that the precision is 1 up to a recall of 1.
    'twice': ([(boxes('dog', [SQUARE]), boxes('dog dog', [SQUARE, SQUARE], [0.9, 0.8]))], (1, 1, 1)),
    # The false box is surer: precision 1/2 at every recall.
    'sure and wrong': ([(boxes('dog', [SQUARE]), boxes('dog dog', [FAR, SQUARE], [0.9, 0.1]))], (0.5, 0.5, 0.5)),
    'wrong in another image': ([(boxes('dog', [SQUARE]), boxes('dog', [SQUARE], [0.2])),
                                (boxes(''), boxes('dog', [SQUARE], [0.7]))], (0.5, 0.5, 0.5)),
    'reversed': ([(boxes('dog', [SQUARE]), boxes('dog', [[10, 10, 0, 0]]))], (0, 0, 0)),
    'not annotated': ([(boxes('cat', [SQUARE]), boxes('dog', [SQUARE]))], (math.nan,) * 3),
}


@pytest.mark.parametrize('name', CASES)
def test_average_precision_by_hand(name):
    images, wanted = CASES[name]
    found = detection_map([truth for truth, _ in images], [seen for _, seen in images], ['dog', 'cat'])
    assert found['dog'] == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def sample(gt_names, gt_bins, names, bins, scores):
    return dict(ori_shape=(100, 200), gt_names=gt_names, gt_bins=gt_bins, pred_names=names, pred_bins=bins,
                pred_scores=scores)


def evaluate(samples, classes, **kwargs):
    evaluator = Evaluator(DetectionMAP(**kwargs))
    evaluator.dataset_meta = dict(classes=classes)
    evaluator.process(data_samples=samples)
    return evaluator.evaluate(len(samples))


def test_the_metric_averages_and_writes_every_digit(tmp_path):
    path, box = tmp_path / 'out' / 'map.csv', [0, 0, 99, 99]
    samples = [sample(['dog', 'dog'], [box, [500, 500, 900, 900]], ['dog', 'unknown'], [box, box], [0.5, 0.9]),
               sample(['cat'], [box], ['cat'], [box], [1.0])]
    found = evaluate(samples, ('dog', 'cat', 'cow'), csv_file=str(path))
    mean = (HALF + 1) / 2
    assert found == pytest.approx({f'detection/{name}': mean for name in ('mAP_50_95', 'mAP_50', 'mAP_75')}, abs=1e-12)
    rows = {row.pop('class'): row for row in csv.DictReader(path.open())}
    assert list(rows) == ['mean', 'dog', 'cat', 'cow'] and set(rows['cow'].values()) == {''}
    assert float(rows['mean']['mAP_75']) == found['detection/mAP_75'] and float(rows['cat']['mAP_50']) == 1
    assert len(rows['dog']['mAP_50']) > 15


@pytest.mark.parametrize('make, message', [
    (lambda: DetectionMAP(csv_file='map.txt'), r"'map.txt' must end in \.csv"),
    (lambda: evaluate([dict(ori_shape=(1, 1), gt_names=[])], ('dog',)), 'no gt_bins.*FlorenceDetection'),
    (lambda: evaluate([sample([], [], ['dog'], [[0, 0, 1, 1]], [1.0])], ('dog',)), r"none of the 1 images.*\['dog'\]"),
    (lambda: detection_map([boxes('')], [], ['dog']), '1 images have annotated boxes, and 0'),
])
def test_what_cannot_be_measured_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
