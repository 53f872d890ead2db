"""ROC-AUC, mean average precision, balanced accuracy and kappa: against golden numbers, scikit-learn and by hand."""

import json
import logging

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmpretrain.evaluation import AveragePrecision
from mmpretrain.registry import METRICS
from mmpretrain.structures import DataSample
from sklearn import metrics as sklearn

import mmlora  # noqa: F401
from mmlora.evaluation import (
    ROCAUC,
    BalancedAccuracy,
    CohenKappa,
    MeanAveragePrecision,
    average_precision,
    cohen_kappa,
    recalls,
    roc_auc,
)


@pytest.fixture(scope='module')
def published(golden):
    folder = golden / 'sr_lora'
    return np.load(folder / 'metrics.npz'), json.loads((folder / 'metrics.json').read_text())


def multi_label(scores, targets):
    return [DataSample().set_pred_score(torch.tensor(s)).set_gt_score(torch.tensor(t))
            for s, t in zip(scores, targets, strict=True)]


def single_label(scores, labels):
    return [DataSample().set_pred_score(torch.tensor(s)).set_gt_label(int(y))
            for s, y in zip(scores, labels, strict=True)]


def evaluate(samples, classes=None, **metric):
    evaluator = Evaluator(METRICS.build(metric))
    evaluator.dataset_meta = {'classes': classes} if classes else {}
    for start in range(0, len(samples), 7):
        evaluator.process(samples[start:start + 7])
    return evaluator.evaluate(len(samples))


GOLDEN = [  # golden value, inputs, result, metric
    ('ml_AUC', 'ml', 'auc/mean', dict(type='ROCAUC', mode='multilabel')),
    ('ml_per_class_auc', 'ml', 'auc/per_class', dict(type='AUC', mode='multilabel', average=None)),
    ('ml2_per_class_auc', 'ml2', 'auc/per_class', dict(type='AUC', mode='multilabel', average=None)),
    ('ml2_AUC', 'ml2', 'auc/mean', dict(type='ROCAUC', mode='multilabel', undefined='nan')),
    ('ml2_AUC_old_sklearn', 'ml2', 'auc/mean', dict(type='ROCAUC', mode='multilabel', undefined='reference')),
    ('mc_AUC_plain_ovr_macro', 'mc', 'auc/mean', dict(type='ROCAUC', mode='multiclass')),
    ('mc_AUC_on_softmax_outputs(reference)', 'mc', 'auc/mean',
     dict(type='ROCAUC', mode='multiclass', softmax_again=True)),
    ('bin_AUC', 'bin', 'auc/mean', dict(type='ROCAUC', mode='multiclass')),
    ('ml_mAP', 'ml', 'multi-label/mAP', dict(type='MeanAveragePrecision')),
    ('ml2_mAP', 'ml2', 'multi-label/mAP', dict(type='MeanAveragePrecision', undefined='zero')),
    ('ties_mAP_sklearn', 'ties', 'multi-label/mAP', dict(type='MeanAveragePrecision')),
]


@pytest.mark.parametrize('name, case, key, metric', GOLDEN, ids=[f'{row[0]}-{row[3]["type"]}' for row in GOLDEN])
def test_published_numbers(published, name, case, key, metric):
    arrays, values = published
    if case in ('mc', 'bin'):
        samples = single_label(arrays[f'{case}_softmax'], arrays[f'{case}_y'])
    else:
        targets = arrays[f'{case}_target'].astype(int)
        samples = multi_label(arrays['ties_pred' if case == 'ties' else 'ml_pred'], targets)
    np.testing.assert_allclose(evaluate(samples, **metric)[key], values[name], rtol=1e-10)


def test_mean_average_precision_is_that_of_mmpretrain_without_gaps_and_ties(published):
    arrays, _ = published
    for undefined, case in (('report', 'ml'), ('zero', 'ml2')):
        target = arrays[f'{case}_target'].astype(int)
        stock = AveragePrecision.calculate(arrays['ml_pred'], target).item()
        own = evaluate(multi_label(arrays['ml_pred'], target), type='MeanAveragePrecision', undefined=undefined)
        assert own['multi-label/mAP'] == pytest.approx(stock, abs=1e-4)


@pytest.mark.parametrize('seed', range(20))
def test_random_inputs_with_ties_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    size, n_classes = int(rng.integers(10, 200)), int(rng.integers(2, 6))
    scores = rng.integers(0, int(rng.integers(2, 30)), size) / 7
    positive = rng.random(size) < 0.3
    positive[:2] = True, False
    assert roc_auc(scores, positive) == pytest.approx(sklearn.roc_auc_score(positive, scores), abs=1e-12)
    expected = sklearn.average_precision_score(positive, scores)
    assert average_precision(scores, positive) == pytest.approx(expected, abs=1e-12)
    labels, predicted = rng.integers(0, n_classes, (2, size))
    assert np.nanmean(recalls(predicted, labels, n_classes)) == pytest.approx(
        sklearn.balanced_accuracy_score(labels, predicted), abs=1e-12)
    for weights in (None, 'linear', 'quadratic'):
        expected = sklearn.cohen_kappa_score(labels, predicted, weights=weights)
        assert cohen_kappa(predicted, labels, n_classes, weights) == pytest.approx(expected, abs=1e-12)


def test_small_cases_by_hand():
    right = np.array([False, False, True, True])
    assert roc_auc([1, 2, 3, 4], right) == 1 and roc_auc([4, 3, 2, 1], right) == 0 and roc_auc([1] * 4, right) == 0.5
    assert average_precision([4, 3, 2, 1], right) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert np.isnan(roc_auc([1, 2], [True, True])) and np.isnan(average_precision([1, 2], [False, False]))
    np.testing.assert_allclose(recalls(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), 3), [0.5, 1, np.nan])


SCORES = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.3], [0.6, 0.4, 0.5], [0.1, 0.2, 0.1]])
TARGETS = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]])  # nobody has the third
# Areas: positives of class 0 score 0.9 and 0.1 against 0.2 and 0.6; those of class 1 score 0.8, 0.4 against 0.1, 0.2.
# Precision of class 0: 1 at the first image, 2/4 at the last; of class 1: 1.
HONEST = [
    (dict(type='ROCAUC', mode='multilabel'), 'auc/mean', 'auc/per_class', [50, 100], 'auc/undefined_classes'),
    (dict(type='MeanAveragePrecision'), 'multi-label/mAP', 'multi-label/AP_classwise', [75, 100],
     'multi-label/undefined_classes'),
    (dict(type='BalancedAccuracy'), 'accuracy/balanced', 'accuracy/recall_classwise', [50, 50],
     'accuracy/undefined_classes'),
]


def toy_samples(metric, scores=SCORES, targets=TARGETS):
    if metric['type'] == 'BalancedAccuracy':
        return single_label(scores, targets.argmax(1))
    return multi_label(scores, targets)


@pytest.mark.parametrize('metric, mean, by_class, values, count', HONEST, ids=[row[0]['type'] for row in HONEST])
def test_a_class_without_images_is_left_out_and_reported(metric, mean, by_class, values, count):
    samples, classes = toy_samples(metric), ('cat', 'dog', 'unicorn')
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    try:
        result = evaluate(samples, classes, **metric)
    finally:
        MMLogger.get_current_instance().removeHandler(handler)
    assert result == {mean: pytest.approx(np.mean(values)), count: 1}
    assert any('1 of 3 classes' in text and 'unicorn' in text for text in records)
    [listed] = evaluate(samples, average=None, **metric).values()
    np.testing.assert_allclose(listed, [*values, np.nan])
    assert np.isnan(evaluate(samples, undefined='nan', **metric)[mean])
    with pytest.raises(ValueError, match='unicorn'):
        evaluate(samples, classes, undefined='error', **metric)


@pytest.mark.parametrize('metric', [row[0] for row in HONEST[:2]], ids=['ROCAUC', 'MeanAveragePrecision'])
def test_no_class_with_a_value_is_an_error(metric):
    samples = multi_label(SCORES, np.zeros_like(TARGETS))
    zero = evaluate(samples, type='MeanAveragePrecision', undefined='zero')  # As mmpretrain counts it.
    assert list(zero.values()) == [0, TARGETS.shape[1]]
    with pytest.raises(ValueError, match='not defined for 3 of 3 classes'):
        evaluate(samples, **metric)
    [mean, _] = evaluate(samples, undefined='nan', **metric).values()
    assert np.isnan(mean)


def test_reference_has_nothing_to_repeat_for_the_first_class():
    samples = multi_label(SCORES, TARGETS[:, ::-1].copy())
    with pytest.raises(ValueError, match='first class'):
        evaluate(samples, type='ROCAUC', mode='multilabel', undefined='reference')


def test_multi_label_reads_indices_and_leaves_unknown_entries_out():
    metric = dict(type='ROCAUC', mode='multilabel', average=None)
    by_index = [DataSample().set_pred_score(torch.tensor(s)).set_gt_label(torch.tensor(np.flatnonzero(t)))
                for s, t in zip(SCORES, TARGETS, strict=True)]
    same = evaluate(multi_label(SCORES, TARGETS), **metric)
    np.testing.assert_allclose(evaluate(by_index, **metric)['auc/per_class'], same['auc/per_class'])
    unknown = TARGETS.copy()
    unknown[3, 0] = -1  # the positive of class 0 that was scored lowest
    np.testing.assert_allclose(evaluate(multi_label(SCORES, unknown), **metric)['auc/per_class'][0], 100)


def test_kappa_metric():
    scores = np.eye(3)[[0, 1, 2, 2]]
    labels = [0, 1, 2, 0]
    for weights, key in ((None, 'kappa/unweighted'), ('quadratic', 'kappa/quadratic')):
        expected = 100 * sklearn.cohen_kappa_score(labels, [0, 1, 2, 2], weights=weights)
        assert evaluate(single_label(scores, labels), type='CohenKappa', weights=weights) == {
            key: pytest.approx(expected)}
    constant = evaluate(single_label(np.eye(3)[[1, 1, 1, 1]], labels), type='CohenKappa')
    assert constant['kappa/unweighted'] == pytest.approx(0)
    assert np.isnan(cohen_kappa(np.zeros(3, int), np.zeros(3, int), 2))


def one(scores, **target):
    return [dict(pred_score=torch.tensor(scores), **target)]


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: ROCAUC(mode='binary'), "mode='binary' is unknown; choose from multilabel, multiclass"),
        (lambda: ROCAUC(mode='multilabel', undefined='skip'), "undefined='skip' is unknown; choose from report"),
        (lambda: MeanAveragePrecision(undefined='reference'), 'choose from report, zero'),
        (lambda: BalancedAccuracy(average='micro'), "average must be 'macro' or None"),
        (lambda: ROCAUC(mode='multilabel', softmax_again=True), 'softmax_again is for'),
        (lambda: CohenKappa(weights='cubic'), "weights='cubic'"),
        (lambda: ROCAUC('multiclass').process(None, one([float('nan'), 1.0], gt_label=0)), 'not finite'),
        (lambda: CohenKappa().process(None, one([float('inf'), 1.0], gt_label=0)), 'not finite'),
        (lambda: ROCAUC('multiclass').process(None, one([0.5, 0.5], gt_label=[0, 1])), r'labels \[0, 1\]'),
        (lambda: BalancedAccuracy().process(None, one([0.5, 0.5], gt_label=2)), 'does not fit the 2 scores'),
        (lambda: ROCAUC('multilabel').process(None, one([0.5, 0.5], gt_score=[1, 0, 1])), '3 entries in gt_score'),
        (lambda: ROCAUC('multilabel').process(None, one([0.5, 0.5], gt_score=[1, 0.5])), '1, 0 or -1'),
        (lambda: ROCAUC('multilabel').process(None, one([0.5])), 'no ground truth'),
        (lambda: ROCAUC('multilabel').process(None, [dict(gt_label=0)]), 'no field pred_score'),
        (lambda: ROCAUC('multilabel').compute_metrics([]), 'no images'),
        (lambda: CohenKappa().compute_metrics([]), 'no images'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
