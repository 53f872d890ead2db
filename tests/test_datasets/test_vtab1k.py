from pathlib import Path

import pytest
from layouts import make_vtab, write_lists
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS

from mmlora.datasets import VTAB_SETS, VTAB1k, find_vtab_set


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_vtab(tmp_path_factory.mktemp('vtab'))


def names_of(dataset):
    return [Path(dataset.get_data_info(i)['img_path']).relative_to(dataset.img_prefix).as_posix()
            for i in range(len(dataset))]


def lines_of(root, name):
    return [line.rpartition(' ')[0] for line in (root / 'eurosat' / name).read_text().splitlines()]


def test_table_of_sets():
    groups = [vtab_set.group for vtab_set in VTAB_SETS.values()]
    assert [groups.count(group) for group in ('Natural', 'Specialized', 'Structured')] == [7, 4, 8]
    assert sum(vtab_set.num_classes for vtab_set in VTAB_SETS.values()) == 940
    for vtab_set in VTAB_SETS.values():
        assert vtab_set.classes is None or len(set(vtab_set.classes)) == vtab_set.num_classes
    spellings = [name for vtab_set in VTAB_SETS.values() for name in vtab_set.folders]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize('spelling, name', [
    ('cifar100', 'cifar'), ('pets', 'oxford_iiit_pet'), ('oxford_pet', 'oxford_iiit_pet'),
    ('camelyon', 'patch_camelyon'), ('flowers102', 'oxford_flowers102'),
    ('retinopathy', 'diabetic_retinopathy'), ('EuroSAT', 'eurosat'),
    ('clevr-count', 'clevr_count'),
])
def test_spellings(spelling, name):
    assert find_vtab_set(spelling) is VTAB_SETS[name]


def test_unknown_set_lists_all():
    with pytest.raises(ValueError, match="no set 'mnist'; choose from cifar, .*smallnorb_ele"):
        VTAB1k('mnist')


@pytest.mark.parametrize('options, name', [
    (dict(), 'train800val200.txt'), (dict(split='train800'), 'train800.txt'), (dict(split='val200'), 'val200.txt'),
    (dict(split='train800val200', n_shot=1), 'train800val200.txt'), (dict(split='test', n_shot=1), 'test.txt'),
    (dict(n_shot=1), 'few_shot_exps/train_1-shot_exp1.txt'),
    (dict(n_shot=1, exp=2), 'few_shot_exps/train_1-shot_exp2.txt'),
    (dict(n_shot=1, ann_file='val200.txt'), 'val200.txt'),
])
def test_splits_read_their_list(root, options, name):
    assert names_of(VTAB1k('eurosat', data_root=str(root), **options)) == lines_of(root, name)


def test_validation_is_what_the_few_shot_list_leaves(root):
    parts = {split: names_of(VTAB1k('eurosat', split, n_shot=1, exp=2, data_root=str(root)))
             for split in ('train', 'val', 'train800val200')}
    assert len(parts['train']) == 10 and len(parts['val']) == 30
    assert sorted(parts['train'] + parts['val']) == sorted(parts['train800val200'])


def test_built_from_a_config(root):
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(dict(
        type='VTAB1k', name='EuroSAT', split='test', data_root=str(root), test_mode=True, indices=5,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
    assert len(dataset) == 5 and dataset.CLASSES[9] == 'SeaLake'
    assert dataset.metainfo['group'] == 'Specialized' and dataset.metainfo['num_classes'] == 10
    assert dataset.metainfo['dataset'] == 'eurosat'
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 32, 32) and sample['data_samples'].gt_label.tolist() == [3]
    assert dataset.get_cat_ids(3) == [3] and dataset.get_gt_labels().tolist() == [0, 1, 2, 3, 4]
    assert 'test.txt' in repr(dataset)


def test_set_without_class_names(tmp_path):
    dataset = VTAB1k('kitti', data_root=str(make_vtab(tmp_path, 'kitti', 4)))
    assert dataset.CLASSES is None and dataset.metainfo['num_classes'] == 4


def test_folder_is_found_under_any_spelling(tmp_path):
    make_vtab(tmp_path, 'cifar100', 3)
    assert len(VTAB1k('cifar', 'test', data_root=str(tmp_path))) == 6
    (tmp_path / 'cifar').mkdir()
    with pytest.raises(ValueError, match='has the folders cifar and cifar100'):
        VTAB1k('cifar', data_root=str(tmp_path))


def test_missing_folders_are_explained(tmp_path):
    (tmp_path / 'dtd').mkdir()
    (tmp_path / 'sun397').mkdir()
    with pytest.raises(FileNotFoundError, match='no folder patch_camelyon or camelyon.*has dtd, sun397: set data'):
        VTAB1k('camelyon', data_root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match='which does not exist'):
        VTAB1k('camelyon', data_root=str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match='no list .*test.txt'):
        VTAB1k('dtd', 'test', data_root=str(tmp_path))


@pytest.mark.parametrize('options, error, message', [
    (dict(split='valid'), ValueError, "not 'valid'"),
    (dict(split='val'), ValueError, "needs n_shot: without it, train on split='train800'"),
    (dict(n_shot=0), ValueError, 'n_shot=0 must be a whole number of at least 1, or None'),
    (dict(n_shot=True), ValueError, 'n_shot=True must be'),
    (dict(exp=0), ValueError, 'exp=0 must be'),
    (dict(n_shot='{shot}'), ValueError, 'settle_variables'),
    (dict(n_shot=5), FileNotFoundError, r'train_5-shot_exp1.txt.*make_splits.py fewshot .*--name eurosat --shots 5'),
    (dict(split='val', n_shot=5), FileNotFoundError, 'train_5-shot_exp1.txt'),
    (dict(ann_file='my.txt'), FileNotFoundError, 'my.txt'),
])
def test_wrong_options(root, options, error, message):
    with pytest.raises(error, match=message):
        VTAB1k('eurosat', data_root=str(root), **options)


def test_labels_and_images_are_checked(tmp_path):
    make_vtab(tmp_path)
    write_lists(tmp_path / 'eurosat', {
        'label.txt': ['images/test/000000.jpg 0', 'images/test/000001.jpg 10'], 'image.txt': ['images/test/x.jpg 0'],
        'few_shot_exps/train_3-shot_exp1.txt': ['images/test/000000.jpg 0'],
        'few_shot_exps/train_4-shot_exp1.txt': [f'images/train800val200/{i:06d}.jpg {i % 10}' for i in range(40)]})
    with pytest.raises(ValueError, match=r'label.txt, line 2: .*label 10, outside of 0\.\.9'):
        VTAB1k('eurosat', data_root=str(tmp_path), ann_file='label.txt')
    with pytest.raises(FileNotFoundError, match='1 of the 1 images of .*image.txt .*images/test/x.jpg'):
        VTAB1k('eurosat', data_root=str(tmp_path), ann_file='image.txt')
    assert len(VTAB1k('eurosat', data_root=str(tmp_path), ann_file='image.txt', check_images=False)) == 1
    with pytest.raises(ValueError, match='1 images of .*train_3-shot_exp1.txt are not in .*train800val200.txt'):
        VTAB1k('eurosat', 'val', n_shot=3, data_root=str(tmp_path))
    with pytest.raises(ValueError, match='none is left for validation'):
        VTAB1k('eurosat', 'val', n_shot=4, data_root=str(tmp_path))
