"""FGVC from VPT's JSON files and from the official ones."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fgvc_layouts import (
    CARS,
    CUB_CLASSES,
    DOGS,
    NABIRDS,
    OFFICIAL,
    TEST,
    TRAIN,
    make_cars,
    make_cars_annos,
    make_cub,
    make_json,
)
from layouts import write_lists
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from scipy.io import savemat
from tiny import call_tool

from mmlora.datasets import FGVC, FGVC_SETS, find_fgvc_set
from mmlora.datasets.fgvc_files import draw_val
from mmlora.datasets.list_files import ListedImage

fgvc = partial(FGVC, serialize_data=False)  # Serialising collects garbage first, which takes most of a test's time.
CLASSES = dict(cub=3, nabirds=3, flowers=102, dogs=120, cars=2)


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """A folder with all sets in their official form, under VPT's names."""
    root = tmp_path_factory.mktemp('official')
    for name, make in OFFICIAL.items():
        make(root / FGVC_SETS[name].folders[0])
    return root


@pytest.fixture
def vpt(tmp_path):
    make_json(tmp_path / 'CUB_200_2011')
    return tmp_path


def labels(dataset):
    return {Path(info['img_path']).name: info['gt_label'] for info in map(dataset.get_data_info, range(len(dataset)))}


# Names of sets and folders.


@pytest.mark.parametrize('spelling, name', [
    ('CUB_200_2011', 'cub'), ('CUB-200-2011', 'cub'), ('cub', 'cub'), ('CUB', 'cub'), ('CUB 200 2011', 'cub'),
    ('nabirds', 'nabirds'), ('NABirds', 'nabirds'), ('OxfordFlower', 'flowers'), ('OxfordFlowers', 'flowers'),
    ('oxford_flowers102', 'flowers'), ('Stanford-dogs', 'dogs'), ('StanfordDogs', 'dogs'), ('StanfordCars', 'cars'),
    ('Stanford-cars', 'cars'), ('stanford_cars', 'cars'),
])
def test_spellings_of_sets_and_folders(tmp_path, spelling, name):
    assert find_fgvc_set(spelling).name == name
    make_json(tmp_path / spelling)
    dataset = fgvc(name, data_root=str(tmp_path))
    assert len(dataset) == 12 and dataset.metainfo['dataset'] == name
    assert len(fgvc(spelling, data_root=str(tmp_path / spelling))) == 12  # The folder of the set itself.


@pytest.mark.parametrize('name, message', [
    ('cubs', "no set 'cubs'; choose from cub, nabirds, flowers, dogs, cars; did you mean 'cub'"),
    ('StanfordDog5', "did you mean 'dogs'"), ('imagenet', "no set 'imagenet'; choose from [a-z, ]+$"),
])
def test_unknown_sets(name, message):
    with pytest.raises(ValueError, match=message):
        fgvc(name)


def test_folders_that_are_not_there(vpt, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match='no folder nabirds or .* which has CUB_200_2011'):
        fgvc('nabirds', data_root=str(vpt))
    (vpt / 'nabird').mkdir()
    with pytest.raises(FileNotFoundError, match=r'\(nabird may be it: rename it\)'):
        fgvc('nabirds', data_root=str(vpt))
    with pytest.raises(FileNotFoundError, match='which does not exist'):
        fgvc('cub', data_root=str(vpt / 'none'))
    make_json(vpt / 'CUB-200-2011')
    with pytest.raises(ValueError, match='has the folders CUB-200-2011 and CUB_200_2011'):
        fgvc('cub', data_root=str(vpt))
    (vpt / 'Stanford-dogs').mkdir()
    with pytest.raises(FileNotFoundError, match='neither train.json.* nor the official files of Stanford Dogs'):
        fgvc('dogs', data_root=str(vpt))


# VPT's files.


@pytest.mark.parametrize('name, images', [
    *((name, place) for name in FGVC_SETS for place in ('images', '')), ('dogs', 'Images'), ('flowers', 'jpg')])
def test_one_map_of_labels_for_all_splits(tmp_path, name, images):
    make_json(tmp_path / FGVC_SETS[name].folders[0], images)
    train, val, trainval, test = (fgvc(name, split, data_root=str(tmp_path)) for split in (
        'train', 'val', 'trainval', 'test'))
    assert labels(train)['bird 0_1.jpg'] == 0 and labels(train)['bird 2_3.jpg'] == 2
    assert labels(val) == {'v1.jpg': 1, 'v2.jpg': 2}  # Class 0 is absent, and does not shift the others.
    assert labels(test) == {'t2_0.jpg': 2, 't0_0.jpg': 0, 't2_1.jpg': 2, 't0_1.jpg': 0}
    assert labels(trainval) == {**labels(train), **labels(val)} and len(trainval) == 14
    assert all(dataset.num_classes == 3 for dataset in (train, val, trainval, test))
    assert trainval.ann_file.endswith('train.json and val.json')


def test_registered_and_read_through_a_pipeline(vpt):
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(dict(type='FGVC', name='cub', split='test', data_root=str(vpt), pipeline=[
        dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
    assert dataset[0]['inputs'].shape == (3, 32, 32) and int(dataset[0]['data_samples'].gt_label) == 2


def test_places_relative_to_where_one_is(vpt, monkeypatch):
    monkeypatch.chdir(vpt)
    assert len(fgvc('cub', data_root='.')) == len(fgvc('cub', data_root='CUB_200_2011')) == 12
    assert len(fgvc('cub', data_root='.', data_prefix='images')) == 12
    with pytest.raises(FileNotFoundError, match='as there is no folder .CUB_200_2011/photos'):
        fgvc('cub', data_root='.', data_prefix='photos')


def test_trainval_of_rlrr_is_read(tmp_path):
    folder = make_json(tmp_path / 'StanfordCars', '', trainval=True)
    assert fgvc('cars', 'trainval', data_root=str(tmp_path)).ann_file == str(folder / 'trainval.json')
    for name in ('train', 'val'):
        (folder / f'{name}.json').unlink()
    assert len(fgvc('cars', 'trainval', data_root=str(tmp_path))) == 14
    with pytest.raises(FileNotFoundError, match="split='val' needs val.json; the files in .* give trainval, test"):
        fgvc('cars', 'val', data_root=str(tmp_path))
    (folder / 'trainval.json').unlink()
    with pytest.raises(FileNotFoundError, match='neither train.json'):
        fgvc('cars', 'trainval', data_root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match='needs train.json and val.json, or trainval.json'):
        fgvc('cars', 'trainval', data_root=str(tmp_path), layout='json')


def test_ids_of_a_list_of_ones_own(vpt):
    folder = vpt / 'CUB_200_2011'
    (folder / 'mine.json').write_text(json.dumps({'a/v1.jpg': 7, 'b/t0_1.jpg': '3'}))
    assert labels(fgvc('cub', data_root=str(vpt), ann_file='mine.json')) == {'v1.jpg': 1, 't0_1.jpg': 0}
    write_lists(folder, {'mine.txt': ['a/bird 2_0.jpg 2', 'b/t0_0.jpg 0']})
    assert labels(fgvc('cub', data_root=str(vpt), ann_file='mine.txt')) == {'bird 2_0.jpg': 2, 't0_0.jpg': 0}
    (folder / 'mine.json').write_text(json.dumps({'a/v1.jpg': 7, 'a/v2.jpg': 9}))
    with pytest.raises(ValueError, match=r"mine.json, entry 2: 'a/v2.jpg' has the class id 9.* none of the 3 .*3\.\.8"):
        fgvc('cub', data_root=str(vpt), ann_file='mine.json')
    write_lists(folder, {'mine.txt': ['b/t0_0.jpg 3']})
    with pytest.raises(ValueError, match=r'the label 3, outside of 0\.\.2'):
        fgvc('cub', data_root=str(vpt), ann_file='mine.txt')


@pytest.mark.parametrize('text, message', [
    ('{"a.jpg": 1', 'not JSON'), ('[1, 2]', 'must be an object'), ('7', 'must be an object'), ('{}', 'is empty'),
    ('{"a.jpg": "one"}', "entry 1.*'one' where a class id"), ('{"a.jpg": 1.5}', '1.5 where'),
    ('{"a.jpg": true}', 'True where'), ('{"../a.jpg": 1}', 'leaves the image folder'),
    ('{"a.jpg": 1, "a.jpg": 2}', "line 2: 'a.jpg' has the label 2, but 1 in line 1"),
    ('{"a/bird 0_0.jpg": 7}', "'a/bird 0_0.jpg' has the class id 3 in .*train.json and 7 in .*val.json"),
    ('{"a/bird 0_0.jpg": 3}', "is in .*train.json and in .*val.json, which are put together"),
    ('{"a/none.jpg": 3}', '1 of the 1 images of .*val.json are not in .*images'),
])
def test_json_that_cannot_be_used(vpt, text, message):
    (vpt / 'CUB_200_2011' / 'val.json').write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fgvc('cub', 'val', data_root=str(vpt))


def test_names_of_classes_from_folders(tmp_path):
    folder = tmp_path / 'StanfordDogs'
    for split, number in dict(train=0, val=1, test=2).items():
        entries = {f'{name}/{number}.jpg': 5 - label for label, name in enumerate(DOGS)}
        folder.mkdir(exist_ok=True)
        (folder / f'{split}.json').write_text(json.dumps(entries))
    dataset = fgvc('dogs', data_root=str(tmp_path), check_images=False)
    assert dataset.metainfo['classes'] == ('Japanese_spaniel', 'Chihuahua')


def test_names_of_nabirds_with_json(tmp_path, official):
    folder = shutil.copytree(official / 'nabirds', tmp_path / 'NABirds')
    names = [f'{label:04d}/{label}{number:08x}.jpg' for number in range(TRAIN) for label in NABIRDS]
    ids = {name: 2 - number % 3 for number, name in enumerate(names)}  # Ids of its own, in another order.
    (folder / 'train.json').write_text(json.dumps(ids))
    assert fgvc('nabirds', data_root=str(tmp_path)).metainfo['classes'] == tuple(reversed(NABIRDS.values()))
    official_names = fgvc('nabirds', data_root=str(tmp_path), layout='official').metainfo['classes']
    assert official_names == tuple(NABIRDS.values())


# The official files.


@pytest.mark.parametrize('name', OFFICIAL)
def test_official_files(official, name):
    train, val, trainval, test = (fgvc(name, split, data_root=str(official)) for split in (
        'train', 'val', 'trainval', 'test'))
    whole = dict(cub=3, nabirds=3, dogs=2, cars=2).get(name, 0) * TRAIN or 14
    assert (len(trainval), len(test)) == (whole, 10 if name == 'flowers' else whole // TRAIN * TEST)
    assert len(val) == (6 if name == 'flowers' else math.ceil(whole / 10))
    assert set(labels(train)).isdisjoint(labels(val)) and {**labels(train), **labels(val)} == labels(trainval)
    # Names of Cars begin anew in its folder of test images.
    assert name == 'cars' or set(labels(trainval)).isdisjoint(labels(test))
    assert {dataset.num_classes for dataset in (train, val, trainval, test)} == {CLASSES[name]}


def test_labels_and_names_of_the_official_files(official):
    def read(name):
        dataset = fgvc(name, 'test', data_root=str(official))
        return labels(dataset), dataset.metainfo.get('classes')

    found, classes = read('cub')
    assert classes == tuple(name[4:] for name in CUB_CLASSES)
    assert found['Black_footed_Albatross 10.jpg'] == 0 and found['Sooty_Albatross 11.jpg'] == 2
    found, classes = read('nabirds')
    assert classes == tuple(NABIRDS.values())
    assert found['2950000000b.jpg'] == 0 and found['8170000000a.jpg'] == 2
    found, classes = read('flowers')
    assert classes is None and found['image_00001.jpg'] == 0 and found['image_00002.jpg'] == 101
    found, classes = read('dogs')
    assert classes is None and found == {
        'n02085620_10.jpg': 0, 'n02085620_11.jpg': 0, 'n02085782_10.jpg': 1, 'n02085782_11.jpg': 1}
    found, classes = read('cars')
    assert classes == CARS and found == {f'{number:05d}.jpg': (number + 1) % 2 for number in range(1, 5)}


def test_cars_of_one_file(tmp_path):
    make_cars_annos(tmp_path / 'stanford_cars')
    test = fgvc('cars', 'test', data_root=str(tmp_path))
    assert labels(test) == {f'{number:06d}.jpg': (number + 1) % 2 for number in range(21, 25)}
    assert test.metainfo['classes'] == CARS
    assert len(fgvc('cars', 'trainval', data_root=str(tmp_path))) == 2 * TRAIN


def test_json_goes_before_the_official_files(tmp_path):
    make_json(make_cub(tmp_path / 'CUB_200_2011'))
    assert fgvc('cub', data_root=str(tmp_path)).ann_file.endswith('train.json')
    assert len(fgvc('cub', data_root=str(tmp_path), layout='official')) == 27
    with pytest.raises(ValueError, match="layout='vpt' must be one of 'json', 'official'"):
        fgvc('cub', data_root=str(tmp_path), layout='vpt')
    assert fgvc('cub', data_root=str(tmp_path), ann_file='test.json').num_classes == 3


def test_official_test_labels_may_be_missing(tmp_path):
    folder = make_cars(tmp_path / 'Stanford-cars')
    (folder / 'devkit' / 'cars_test_annos_withlabels.mat').unlink()
    assert len(fgvc('cars', 'trainval', data_root=str(tmp_path))) == 2 * TRAIN
    with pytest.raises(FileNotFoundError, match='split=.test. needs test of .*cars_test_annos_withlabels.mat'):
        fgvc('cars', 'test', data_root=str(tmp_path))


def rows(**fields):
    kind = np.dtype([(field.rstrip('_'), object) for field in fields])
    return np.array([[tuple(fields.values())]], kind)


@pytest.mark.parametrize('name, file, content, message', [
    ('cub', 'image_class_labels.txt', lambda text: text.replace('\n7 3\n', '\n7 4\n'),
     'image_class_labels.txt: 7 4 has the class id 4, which classes.txt does not have'),
    ('cub', 'images.txt', lambda text: text.replace('7 003', '700 003'), "2 ids are in one of them alone, such as '7'"),
    ('cub', 'train_test_split.txt', lambda text: text.replace('\n7 1\n', '\n7 2\n'), "'7' has 2 where 1 means train"),
    ('cub', 'train_test_split.txt', lambda text: text.replace('\n7 1\n', '\n7\n'), "line 7: '7' has one word"),
    ('cub', 'image_class_labels.txt', lambda text: f'{text}7 1\n', "'7 1' has the id '7', which an earlier line has"),
    ('cub', 'images.txt', lambda text: text.replace('7 003', '7 ../003'), 'leaves the image folder'),
    ('cub', 'classes.txt', lambda text: f'x{text}', "'x1' where a whole number belongs"),
    ('nabirds', 'classes.txt', lambda text: text.replace('817 ', '818 '), 'class id 817, which classes.txt does not'),
    ('flowers', 'setid.mat', dict(trnid=[[25]], valid=[[1]], tstid=[[2]]), r'image 25 of train is outside of 1..24'),
    ('flowers', 'imagelabels.mat', dict(labels=np.full((1, 24), 103)), r'class id 103, outside of 1..102'),
    ('flowers', 'setid.mat', dict(trnid=[[2]]), "has no variable 'valid', but trnid"),
    ('dogs', 'lists/train_list.mat', dict(file_list=['a.jpg', 'b.jpg'], labels=[1, 2, 3]), '2 images and 3 labels'),
    ('dogs', 'lists/train_list.mat', dict(file_list=['a.jpg', 'b.jpg'], labels=[1, 121]), 'id 121, outside of 1..120'),
    ('cars', 'devkit/cars_train_annos.mat', dict(annotations=rows(fname='1.jpg', class_=3)), 'id 3, outside of 1..2'),
    ('cars', 'devkit/cars_train_annos.mat', dict(annotations=rows(fname='1.jpg')), "no field 'class', but fname"),
    ('cars', 'devkit/cars_train_annos.mat', b'<html>', 'cannot be read as a MATLAB file'),
])
def test_official_files_that_cannot_be_used(tmp_path, official, name, file, content, message):
    folder = shutil.copytree(official / FGVC_SETS[name].folders[0], tmp_path / name)
    if callable(content):
        before = (folder / file).read_text()
        (folder / file).write_text(content(before))
        assert (folder / file).read_text() != before
    elif isinstance(content, bytes):
        (folder / file).write_bytes(content)
    else:
        savemat(folder / file, content)
    with pytest.raises(ValueError, match=message):
        fgvc(name, data_root=str(tmp_path))


@pytest.mark.parametrize('name, file', [('cub', 'images.txt'), ('flowers', 'setid.mat')])
def test_official_files_that_are_not_there(tmp_path, official, name, file):
    folder = shutil.copytree(official / FGVC_SETS[name].folders[0], tmp_path / name)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"no '{file}' in"):
        fgvc(name, data_root=str(tmp_path))


# What is held out.


@pytest.mark.parametrize('name, count, held', [
    ('cub', 5994, 600), ('nabirds', 23929, 2393), ('dogs', 12000, 1200), ('cars', 8144, 815)])
def test_as_many_images_are_held_out_as_by_vpt(name, count, held):
    classes = FGVC_SETS[name].num_classes
    images = [ListedImage(f'{number}.jpg', number % classes + 1, number) for number in range(count)]
    chosen = draw_val(images, name)
    assert len(chosen) == held == FGVC_SETS[name].val_images and count - held == FGVC_SETS[name].train_images
    assert chosen == draw_val(images[::-1], name)
    per_class = np.bincount([image.label for image in images if image.name in chosen], minlength=classes + 1)[1:]
    per_class_before = np.bincount([image.label for image in images])[1:]
    assert np.all(np.abs(per_class - per_class_before / 10) <= 1)


def test_the_held_out_images_do_not_change():
    images = [ListedImage(f'{number}.jpg', number % 3, number) for number in range(60)]
    assert draw_val(images, 'cub') != draw_val(images, 'cars')
    assert sorted(draw_val(images, 'cub')) == ['11.jpg', '16.jpg', '28.jpg', '30.jpg', '45.jpg', '56.jpg']


# Few shots.


def test_few_shot_lists(tmp_path):
    folder = make_cub(tmp_path / 'CUB_200_2011')
    lines = [f'{name}/{name[4:]} 1.jpg {label}' for label, name in enumerate(CUB_CLASSES)]
    write_lists(folder, {'few_shot_exps/train_1-shot_exp2.txt': lines})
    few = dict(n_shot=1, exp=2, data_root=str(tmp_path))
    train, val = fgvc('cub', **few), fgvc('cub', 'val', **few)
    assert labels(train) == {'Black_footed_Albatross 1.jpg': 0, 'Laysan_Albatross 1.jpg': 1, 'Sooty_Albatross 1.jpg': 2}
    assert len(val) == 3 * TRAIN - 3 and set(labels(train)).isdisjoint(labels(val))
    assert len(fgvc('cub', 'trainval', **few)) == 3 * TRAIN and len(fgvc('cub', 'test', **few)) == 3 * TEST
    with pytest.raises(FileNotFoundError, match='fewshot --dataset fgvc --data-root .* --name cub --shots 4 --exps 5'):
        fgvc('cub', n_shot=4, data_root=str(tmp_path))


def test_few_shot_lists_are_written(tmp_path, capsys):
    make_json(tmp_path / 'CUB_200_2011')
    make_cars(tmp_path / 'Stanford-cars')
    options = ('fewshot', '--dataset', 'fgvc', '--data-root', tmp_path, '--shots', 2, '--exps', 1)
    assert call_tool('make_splits', *options) == 0
    for name, per_class in dict(cub=3 * [2], cars=2 * [2]).items():
        train, val, whole = (fgvc(name, split, data_root=str(tmp_path), n_shot=n_shot)
                             for split, n_shot in (('train', 2), ('val', 2), ('trainval', None)))
        assert np.bincount(list(labels(train).values())).tolist() == per_class
        assert len(train) + len(val) == len(whole) and labels(train).items() <= labels(whole).items()
    assert call_tool('make_splits', *options, '--name', 'dogs') == 2
    assert 'no folder Stanford-dogs' in capsys.readouterr().err
    assert call_tool('make_splits', *options[:4], tmp_path / 'cub') == 2
    assert 'has no folder of an FGVC set' in capsys.readouterr().err


@pytest.mark.parametrize('options, message', [
    (dict(split='train800'), "has the splits train, val, trainval, test, not 'train800'"),
    (dict(split='{train_split}'), 'settle_variables'), (dict(n_shot='{shot}'), 'settle_variables'),
    (dict(n_shot=0), 'n_shot=0'), (dict(exp=0), 'exp=0'),
])
def test_options_out_of_range(vpt, options, message):
    with pytest.raises(ValueError, match=message):
        fgvc('cub', data_root=str(vpt), **options)
