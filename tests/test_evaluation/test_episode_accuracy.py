import numpy as np
import pytest
import torch
from mmpretrain.registry import METRICS

import mmlora  # noqa: F401
from mmlora.evaluation import EpisodeAccuracy, episode_accuracies, mean_and_interval, prototype_accuracy
from mmlora.evaluation.prototypes import SCORES, cosine_scores, euclidean_scores


def clusters(spread, n_classes=6, size=30, dim=16):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_classes, dim))
    labels = np.repeat(np.arange(n_classes), size)
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype(np.float32), labels


def test_scores_equal_their_definitions():
    rng = np.random.default_rng(1)
    support, query = rng.normal(size=(3, 4, 5)), rng.normal(size=(7, 5))
    euclidean = [[-((q - s.mean(0)) ** 2).sum() for s in support] for q in query]
    np.testing.assert_allclose(euclidean_scores(support, query), euclidean, atol=1e-12)
    units = support / np.linalg.norm(support, axis=-1, keepdims=True)
    means = units.mean(1)
    cosine = [[q @ m / np.linalg.norm(q) / np.linalg.norm(m) for m in means] for q in query]
    np.testing.assert_allclose(cosine_scores(support, query), cosine, atol=1e-12)


@pytest.mark.parametrize('metric', list(SCORES))
def test_accuracy_counts_right_answers(metric):
    support = np.eye(3)[:, None, :] + 0.1
    query = np.eye(3)[[0, 1, 1, 0, 2, 2]].reshape(3, 2, 3)  # the second of class 0 and the second of class 1 are wrong
    assert prototype_accuracy(support, query, metric) == pytest.approx(4 / 6)


def test_interval_is_that_of_the_mean():
    mean, half = mean_and_interval(np.array([0.0, 1.0, 1.0, 0.0]))
    assert mean == 0.5 and half == pytest.approx(1.96 * (1 / 3) ** 0.5 / 2)
    with pytest.raises(ValueError, match='at least 2 episodes, got 1'):
        mean_and_interval(np.array([1.0]))


@pytest.mark.parametrize('spread, low, high', [(0.01, 1, 1), (1e3, 0.15, 0.25)])
def test_separated_classes_are_told_apart_and_noise_is_not(spread, low, high):
    values = episode_accuracies(*clusters(spread), n_episodes=50)
    assert values.shape == (50,) and low <= values.mean() <= high


def test_more_episodes_do_not_change_the_first():
    features, labels = clusters(1.0)
    few, many = (episode_accuracies(features, labels, n_episodes=n) for n in (5, 20))
    np.testing.assert_array_equal(few, many[:5])
    assert (few != episode_accuracies(features, labels, n_episodes=5, seed=1)).any()


def test_metric_is_registered_and_equals_the_function():
    metric = METRICS.build(dict(type='EpisodeAccuracy', n_episodes=30))
    assert isinstance(metric, EpisodeAccuracy)
    features, labels = clusters(1.0)
    for start in range(0, len(labels), 50):
        batch = slice(start, start + 50)
        metric.process(
            None,
            [
                dict(feature=torch.from_numpy(f), gt_label=torch.tensor([label]))
                for f, label in zip(features[batch], labels[batch], strict=True)
            ],
        )
    result = metric.evaluate(len(labels))
    mean, half = mean_and_interval(100 * episode_accuracies(features, labels, n_episodes=30))
    assert result == {'episode/accuracy': pytest.approx(mean), 'episode/interval': pytest.approx(half)}


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: EpisodeAccuracy(metric='manhattan'), "metric='manhattan'"),
        (lambda: prototype_accuracy(np.ones((2, 1, 3)), np.ones((2, 1, 3)), 'x'), "metric='x'"),
        (lambda: episode_accuracies(np.ones((3, 2)), np.ones(4)), '3 features do not fit 4 labels'),
        (lambda: EpisodeAccuracy().process(None, [dict(gt_label=1)]), "no field 'feature'"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
