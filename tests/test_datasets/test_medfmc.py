import json
import os
from pathlib import Path

import pytest
import torch
from layouts import make_medfmc, write_lists
from mmengine.registry import init_default_scope
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import DATASETS

from mmlora.datasets import Chest19, Colon, Endoscopy

SETS = {'chest': Chest19, 'endo': Endoscopy, 'colon': Colon}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('MedFMC')
    for name in SETS:
        make_medfmc(folder, name)
    return folder


def build(root, name, split='train', **options):
    return SETS[name](split, data_root=str(root / name), **options)


def names_of(dataset):
    return [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]


@pytest.mark.parametrize('name', SETS)
def test_class_names_are_the_published_ones(golden, name):
    published = json.loads((golden / 'sr_lora' / 'ann' / 'expected.json').read_text())['CLASSES'][SETS[name].__name__]
    # One name is misspelt there.
    assert list(SETS[name].METAINFO['classes']) == ['negative' if name == 'negtive' else name for name in published]


@pytest.mark.parametrize('name', SETS)
def test_validation_and_training_share_no_image(root, name):
    train, val, trainval = (names_of(build(root, name, split, n_shot=1)) for split in ('train', 'val', 'trainval'))
    assert len(train) == (6 if name == 'colon' else 7) and len(val) == 18 and len(trainval) == 24
    assert set(train) | set(val) == set(trainval) and not set(train) & set(val)
    assert names_of(build(root, name)) == trainval
    test = names_of(build(root, name, 'test', n_shot=1))
    assert len(test) == 12 and not set(test) & set(trainval)


@pytest.mark.parametrize('name, leaked', [('chest', 4), ('endo', 4), ('colon', 0)])
def test_official_validation_warns_of_its_leak(root, name, leaked, monkeypatch):
    warnings = []
    monkeypatch.setattr('mmengine.logging.MMLogger.warning', lambda self, text: warnings.append(text))
    dataset = build(root, name, 'official_val', n_shot=1)
    assert len(dataset) == 22 - 4 * (name == 'colon')
    assert len(warnings) == bool(leaked)
    if leaked:
        assert '4 of the 22 images' in warnings[0] and 'training images' in warnings[0]


def test_labels_are_what_mmpretrain_expects(root):
    init_default_scope('mmpretrain')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    config = dict(split='trainval', pipeline=pipeline, test_mode=True)
    endo = DATASETS.build(dict(type='Endoscopy', data_root=str(root / 'endo'), **config))
    samples = [endo[i]['data_samples'] for i in range(4)]
    assert [sample.gt_label.tolist() for sample in samples] == [[0, 1], [1, 2], [2, 3], []]
    assert endo.get_cat_ids(0) == [0, 1] and endo.get_cat_ids(3) == []
    batch = {key: [endo[i][key] for i in (3, 0, 3)] for key in ('inputs', 'data_samples')}
    out = ClsDataPreprocessor(to_onehot=True, num_classes=4)(batch)
    scores = torch.stack([sample.gt_score for sample in out['data_samples']])
    assert scores.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    colon = DATASETS.build(dict(type='Colon', data_root=str(root / 'colon'), **config))
    assert colon[1]['data_samples'].gt_label.tolist() == [1] and colon.CLASSES == ('negative', 'positive')
    assert colon.metainfo['num_classes'] == 2 and endo.metainfo['num_classes'] == 4


def test_lists_may_lie_elsewhere_and_be_named(root, tmp_path):
    line = (root / 'chest' / 'trainval.txt').read_text().splitlines()[0]
    write_lists(tmp_path, {'val_WithLabel.txt': [line], 'chest_3-shot_train_exp7.txt': [line]})
    assert len(build(root, 'chest', 'val', ann_file='val_WithLabel.txt', list_dir=str(tmp_path), n_shot=1)) == 1
    assert len(build(root, 'chest', 'official_val', ann_file=str(tmp_path / 'val_WithLabel.txt'))) == 1
    assert len(build(root, 'chest', 'train', list_dir=str(tmp_path), n_shot=3, exp=7)) == 1


@pytest.mark.parametrize('options, error, message', [
    (dict(split='valid'), ValueError, "Chest19 has the splits train, val, .*not 'valid'"),
    (dict(split='val'), ValueError, "split='val' needs n_shot"),
    (dict(split='official_val'), ValueError, "split='official_val' needs n_shot"),
    (dict(n_shot='{shot}'), ValueError, 'settle_variables'),
    (dict(n_shot=1, exp='{split}'), ValueError, 'settle_variables'),
    (dict(n_shot=1.5), ValueError, 'n_shot=1.5'),
    (dict(n_shot=5), FileNotFoundError, 'no list .*chest_5-shot_train_exp1.txt.*set data_root'),
    (dict(split='val', n_shot=1, exp=2), FileNotFoundError, 'chest_1-shot_train_exp2.txt'),
    (dict(split='official_val', n_shot=5), FileNotFoundError, 'chest_5-shot_val_exp1.txt'),
])
def test_wrong_options(root, options, error, message):
    with pytest.raises(error, match=message):
        build(root, 'chest', **options)


def test_images_are_checked(root):
    with pytest.raises(FileNotFoundError, match=r'24 of the 24 images .* no folder .*pictures'):
        build(root, 'endo', data_prefix='pictures')
    assert len(build(root, 'endo', data_prefix='pictures', check_images=False)) == 24


OFFICIAL = Path(os.environ.get('MMLORA_MEDFMC', 'data/MedFMC'))  # Folder of the published sets, lists alone suffice.


@pytest.mark.skipif(not (OFFICIAL / 'chest' / 'trainval.txt').is_file(), reason='the published lists are not here')
@pytest.mark.parametrize('name, trainval, test, shots', [
    ('chest', 979, 1161, {(1, 1): (19, 19), (10, 1): (190, 170), (5, 4): (95, 88)}),
    ('endo', 929, 881, {(1, 1): (46, 46), (1, 4): (28, 24), (10, 1): (422, 358)}),
])
def test_published_lists(name, trainval, test, shots):
    options = dict(check_images=False)
    assert len(build(OFFICIAL, name, **options)) == trainval
    tested = build(OFFICIAL, name, 'test', **options)
    assert len(tested) == test
    if name == 'endo':
        assert [sum(label in tested.get_cat_ids(i) for i in range(test)) for label in range(4)] == [196, 222, 69, 0]
    for (n_shot, exp), (lines, images) in shots.items():
        train, val = (names_of(build(OFFICIAL, name, split, n_shot=n_shot, exp=exp, **options))
                      for split in ('train', 'val'))
        assert (len(train), len(set(train)), len(val)) == (lines, images, trainval - images)
        assert not set(train) & set(val)
