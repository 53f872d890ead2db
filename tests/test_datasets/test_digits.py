import builtins

import numpy as np
import pytest
from mmengine.registry import init_default_scope

import mmlora  # noqa: F401
from mmlora.datasets import Digits
from mmlora.datasets.digits import SPLIT_SIZES, enlarge, few_shot_positions, load_digits, split_positions

pytest.importorskip('sklearn')


def positions_of(dataset):
    return [dataset.get_data_info(i)['position'] for i in range(len(dataset))]


def test_splits_are_disjoint_and_complete():
    _, labels = load_digits()
    parts = {split: split_positions(labels, split) for split in ('train', 'val', 'test')}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    for split, size in SPLIT_SIZES.items():
        np.testing.assert_array_equal(np.bincount(labels[parts[split]]), size)
    assert len(parts['test']) == 597


def test_few_shot_subsets_are_nested_balanced_and_seeded():
    _, labels = load_digits()
    pool = split_positions(labels, 'train')
    five, twenty = (few_shot_positions(labels, pool, n, seed=0) for n in (5, 20))
    assert set(five) < set(twenty) <= set(pool)
    np.testing.assert_array_equal(np.bincount(labels[five]), 5)
    assert set(few_shot_positions(labels, pool, 5, seed=1)) != set(five)
    np.testing.assert_array_equal(few_shot_positions(labels, pool, 5, seed=0), five)


def test_data_set_speaks_as_mmpretrain_expects():
    init_default_scope('mmpretrain')
    dataset = Digits('train', n_shot=3, seed=1, repeat=2, pipeline=[dict(type='PackInputs')])
    assert len(dataset) == 60 and dataset.CLASSES[7] == 'seven'
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 32, 32)
    assert int(sample['data_samples'].gt_label) == dataset.get_data_info(0)['gt_label'] == 0
    assert positions_of(dataset)[:30] == positions_of(dataset)[30:]


def test_image_is_the_digit_enlarged():
    images, _ = load_digits()
    assert images.max() == 255
    large = enlarge(images[0])
    assert large.shape == (32, 32, 3) and (large[..., 0] == large[..., 2]).all()
    small = large[..., 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), images[0].ravel())[0, 1] > 0.95


def test_pipeline_cannot_change_the_stored_image():
    dataset = Digits('val')
    dataset[0]['img'][:] = 9
    assert dataset[0]['img'].max() != 9


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(split='all'), "not 'all'"),
        (dict(n_shot=81), "n_shot=81 must be within 1..80, the images of class 'zero'"),
        (dict(n_shot=0), 'n_shot=0'),
        (dict(seed=-1), 'seed=-1'),
        (dict(repeat=0), 'repeat=0'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Digits(**arguments)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    load_digits.cache_clear()
    monkeypatch.setattr(builtins, '__import__', without_sklearn)
    with pytest.raises(ImportError, match=r'pip install "mmlora\[quickstart\]"'):
        Digits()
