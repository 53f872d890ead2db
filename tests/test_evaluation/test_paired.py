"""Two methods on the same episodes."""

import numpy as np
import pytest
import torch

from mmlora.evaluation import EpisodeAccuracy, EpisodeScores, episode_accuracies, images_digest, paired_difference


def metric_over(features, labels, path, **settings):
    metric = EpisodeAccuracy(n_way=3, n_query=4, n_episodes=30, save=path, **settings)
    metric.dataset_meta = dict(classes=list('abcd'))
    pairs = zip(features, labels, strict=True)
    metric.process(None, [dict(feature=torch.tensor(feature), gt_label=int(label)) for feature, label in pairs])
    return metric.evaluate(len(labels))


def test_difference_of_two_saved_tests(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    good, bad = (np.eye(4)[labels] + noise * rng.normal(size=(40, 4)) for noise in (0.3, 0.9))
    found = [metric_over(features, labels, tmp_path / name) for features, name in ((good, 'a.json'), (bad, 'b.json'))]
    a, b = EpisodeScores.read(tmp_path / 'a.json'), EpisodeScores.read(tmp_path / 'b.json')
    wanted = 100 * episode_accuracies(good.astype(np.float32), labels, 3, 5, 4, 30)
    np.testing.assert_allclose(a.accuracies, wanted, atol=1e-10)
    assert a.images == images_digest(labels, list('abcd')) != images_digest(labels[::-1], list('abcd'))
    difference, half = a.minus(b)
    assert difference == pytest.approx(found[0]['episode/accuracy'] - found[1]['episode/accuracy'])
    deltas = a.accuracies - b.accuracies
    assert half == pytest.approx(1.96 * np.std(deltas, ddof=1) / 30**0.5) and difference > half > 0
    assert b.minus(a) == pytest.approx((-difference, half))

    metric_over(good, labels, tmp_path / 'c.json', seed=1)
    with pytest.raises(ValueError, match='the two tests had other episodes: seed=0 and seed=1'):
        a.minus(EpisodeScores.read(tmp_path / 'c.json'))
    metric_over(good[::-1], labels[::-1], tmp_path / 'd.json')
    with pytest.raises(ValueError, match='drew their episodes from other images'):
        a.minus(EpisodeScores.read(tmp_path / 'd.json'))


def test_what_is_no_pair(tmp_path):
    with pytest.raises(ValueError, match=r'the same episodes, got accuracies of the shapes \(3,\) and \(2,\)'):
        paired_difference([1, 2, 3], [1, 2])
    text = '{"format": "mmlora episodes 1", "episodes": {"n_episodes": 2}, "accuracies": [1]}'
    (tmp_path / 'x.json').write_text(text)
    with pytest.raises(ValueError, match='does not hold one accuracy for each of its episodes'):
        EpisodeScores.read(tmp_path / 'x.json')
