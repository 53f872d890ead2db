"""The sets of CoOp: both spellings of folders, split files, classes, draws, halves of the classes, bad input."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from coop_layouts import (
    PER_CLASS,
    WNIDS,
    class_names,
    make_imagenet,
    make_listed,
    make_shift,
    rows_of,
    spelled,
)
from mmengine.registry import init_default_scope
from mmpretrain.datasets.categories import IMAGENET_SIMPLE_CATEGORIES
from mmpretrain.registry import DATASETS

from mmlora.datasets import COOP_SETS, IMAGENET_SHIFTS, CoOpDataset, find_coop_set
from mmlora.datasets.coop_files import read_split_file

coop = partial(CoOpDataset, serialize_data=False)
LISTED = [name for name, coop_set in COOP_SETS.items() if coop_set.split_file]
OFFICIAL = os.environ.get('MMLORA_COOP_SPLITS', '')


def infos(dataset):
    return [(info['img_path'], info['gt_label']) for info in map(dataset.get_data_info, range(len(dataset)))]


def labels(dataset):
    return [label for _, label in infos(dataset)]


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp('imagenet')
    make_imagenet(root / 'imagenet', 'images', per_class=5, names=True)
    return root


@pytest.fixture
def eurosat(tmp_path):
    make_listed(tmp_path / 'eurosat', 'eurosat')
    return tmp_path


# Names and folders.


def test_the_table():
    assert list(COOP_SETS) == ['imagenet', 'caltech101', 'oxford_pets', 'stanford_cars', 'oxford_flowers', 'food101',
                               'fgvc_aircraft', 'sun397', 'dtd', 'eurosat', 'ucf101']
    assert [coop_set.num_classes for coop_set in COOP_SETS.values()] == [
        1000, 100, 37, 196, 102, 101, 100, 397, 47, 10, 101]
    assert [coop_set.num_classes for coop_set in IMAGENET_SHIFTS.values()] == [1000, 1000, 200, 200]
    assert COOP_SETS['dtd'].template == '{} texture.' and dict(COOP_SETS['sun397'].images)['test'] == 19850


@pytest.mark.parametrize('spelling, name', [
    ('dtd', 'dtd'), ('DTD', 'dtd'), ('fgvc', 'fgvc_aircraft'), ('Flower102', 'oxford_flowers'), ('pets', 'oxford_pets'),
    ('caltech-101', 'caltech101'), ('StanfordCars', 'stanford_cars'), ('ImageNet-A', 'imagenet_a'),
    ('imagenet-rendition', 'imagenet_r'), ('ImageNetV2', 'imagenetv2'), ('ImageNet', 'imagenet'),
])
def test_spellings(spelling, name):
    assert find_coop_set(spelling).name == name


@pytest.mark.parametrize('name, message', [
    ('dtds', "no set 'dtds'; choose from imagenet, .*, imagenet_r; did you mean 'dtd'"),
    ('ucf', None), ('mnist', 'no set .mnist.; choose from [a-z0-9_, ]+$'),
])
def test_unknown_names(name, message):
    if message is None:
        assert find_coop_set(name).name == 'ucf101'
        return
    with pytest.raises(ValueError, match=message):
        coop(name)


@pytest.mark.parametrize('spelling', [0, -1])
@pytest.mark.parametrize('name', LISTED)
def test_both_spellings_of_folders(tmp_path, name, spelling):
    folder = make_listed(spelled(tmp_path, name, spelling), name, counts=dict(train=2, val=1, test=1))
    num_classes = COOP_SETS[name].num_classes
    for root in (tmp_path, folder):
        dataset = coop(name, data_root=str(root))
        assert len(dataset) == 2 * num_classes and labels(dataset)[:3] == [0, 1, 2]
        assert all(Path(path).is_file() for path, _ in infos(dataset))
        assert len(dataset.metainfo['classes']) == dataset.metainfo['num_classes'] == num_classes
        assert dataset.metainfo['dataset'] == name
        assert dataset.metainfo['templates'] == (COOP_SETS[name].template,)
    second = 'Type 1/B' if name == 'fgvc_aircraft' else 'the class 1'
    assert dataset.metainfo['classes'][1] == second


@pytest.mark.parametrize('below', ['', 'images'])
@pytest.mark.parametrize('names', [False, True])
def test_imagenet_in_both_layouts(tmp_path, below, names):
    make_imagenet(tmp_path / 'imagenet', below, per_class=1, names=names)
    train, test = (coop('imagenet', split, data_root=str(tmp_path)) for split in ('train', 'test'))
    assert labels(train) == labels(test) == list(range(1000))
    assert infos(train)[3][0] == str(tmp_path / 'imagenet' / below / 'train' / WNIDS[3] / f'{WNIDS[3]}_0.JPEG')
    wanted = tuple(f'thing {number}' for number in range(1000)) if names else IMAGENET_SIMPLE_CATEGORIES
    assert train.metainfo['classes'] == test.metainfo['classes'] == wanted
    assert infos(coop('imagenet', 'val', data_root=str(tmp_path))) == infos(test)


def test_registered_and_read_through_a_pipeline(tmp_path):
    make_listed(tmp_path / 'eurosat', 'eurosat', counts=dict(train=1, val=1, test=1), real=True)
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(dict(type='CoOpDataset', name='eurosat', split='test', data_root=str(tmp_path), pipeline=[
        dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
    assert dataset[4]['inputs'].shape == (3, 32, 32) and int(dataset[4]['data_samples'].gt_label) == 4


def test_images_of_sun_lie_in_a_folder_of_its_name(tmp_path):
    make_listed(tmp_path / 'sun397', 'sun397', counts=dict(train=1, val=1, test=1))
    assert len(coop('sun397', 'test', data_root=str(tmp_path / 'sun397'))) == 397
    (tmp_path / 'sun397' / 'split_zhou_SUN397.json').unlink()
    with pytest.raises(FileNotFoundError, match="[^']*/sun397/split_zhou_SUN397.json'; get split_.* from DATASETS"):
        coop('sun397', data_root=str(tmp_path / 'sun397'))


# Draws.


def test_draws_of_the_published_codes(golden_draws, tmp_path):
    """The golden lists have 5 classes; the others of EuroSAT are appended, so that the draws begin with them."""
    content = {split: golden_draws[split] for split in ('train', 'val')}
    content['test'] = [['t.jpg', 0, 'c0']]
    for label in range(5, 10):
        for split in content:
            content[split] = [*content[split], [f'{split}/{label}.jpg', label, f'c{label}']]
    folder = tmp_path / 'eurosat'
    folder.mkdir()
    (folder / 'split_zhou_EuroSAT.json').write_text(json.dumps(content))
    for case in golden_draws['cases']:
        wanted = case['coop_order']['train']
        dataset = coop('eurosat', n_shot=case['shots'], seed=case['seed'], data_root=str(tmp_path), check_images=False)
        names = [path.split('2750/')[1] for path, _ in infos(dataset)]
        assert names[:len(wanted)] == wanted and len(names) == 10 * case['shots']
        # CLIP-LoRA draws val first, which begins with the golden lists too.
        wanted = case['cliplora_order']['val']
        dataset = coop('eurosat', 'val', n_shot=case['shots'], sampling='clip_lora', seed=case['seed'],
                       data_root=str(tmp_path), check_images=False)
        assert [path.split('2750/')[1] for path, _ in infos(dataset)][:len(wanted)] == wanted


@pytest.mark.parametrize('sampling', ['coop', 'clip_lora'])
@pytest.mark.parametrize('n_shot', [1, 2, 4, 6, 8])
def test_numbers_of_drawn_images(eurosat, sampling, n_shot):
    options = dict(n_shot=n_shot, sampling=sampling, data_root=str(eurosat))
    train, val, test = (coop('eurosat', split, **options) for split in ('train', 'val', 'test'))
    assert all(labels(train).count(label) == n_shot for label in range(10))
    assert all(labels(val).count(label) == min(n_shot, 4) for label in range(10))
    assert len(test) == 10 * PER_CLASS['test']
    assert (len(set(infos(train))) == len(train)) is (n_shot <= PER_CLASS['train'])  # Then with repetition.
    again, other = (coop('eurosat', **options, seed=seed) for seed in (1, 2))
    assert infos(train) == infos(again) != infos(other)


def test_draws_of_imagenet(imagenet):
    root = str(imagenet)
    val = coop('imagenet', 'val', n_shot=2, data_root=root)
    assert infos(val) == infos(coop('imagenet', 'test', data_root=root))
    train, val = (coop('imagenet', split, 2, 'clip_lora', data_root=root) for split in ('train', 'val'))
    assert len(train) == len(val) == 2000 and not set(infos(train)) & set(infos(val))
    assert all('/train/' in path for path, _ in infos(val))
    with pytest.raises(ValueError, match='class 0 has 5 training images, .* where 4 for training and 4 for validation'):
        coop('imagenet', 'train', 4, 'clip_lora', data_root=root)


# Halves of the classes.


@pytest.mark.parametrize('name, base', [('dtd', 24), ('eurosat', 5), ('ucf101', 51)])
def test_base_and_new(tmp_path, name, base):
    make_listed(tmp_path / name, name, images=False)
    build = partial(coop, name, data_root=str(tmp_path), check_images=False, n_shot=2)
    every, first, second = (build(subset=subset) for subset in ('all', 'base', 'new'))
    num_classes = COOP_SETS[name].num_classes
    assert (first.num_classes, second.num_classes) == (base, num_classes - base)
    assert set(labels(first)) == set(range(base)) and set(labels(second)) == set(range(num_classes - base))
    assert first.metainfo['classes'] + second.metainfo['classes'] == every.metainfo['classes']
    # Images are drawn before classes are left out.
    assert infos(first) == [(path, label) for path, label in infos(every) if label < base]
    assert infos(second) == [(path, label - base) for path, label in infos(every) if label >= base]
    assert len(build('test', subset='new')) == 2 * (num_classes - base)


# Other images of ImageNet's classes.


@pytest.mark.parametrize('name', IMAGENET_SHIFTS)
def test_shifted_sets(tmp_path, name):
    wnids = make_shift(tmp_path, name)
    folder = tmp_path / IMAGENET_SHIFTS[name].folders[0]
    if len(wnids) == 200:
        with pytest.raises(FileNotFoundError, match='classnames.txt.* nor one in the folder imagenet beside it'):
            coop(name, 'test', data_root=str(tmp_path))
    (folder / 'classnames.txt').write_text(class_names())
    dataset = coop(name, 'test', data_root=str(tmp_path))
    numbers = [WNIDS.index(wnid) for wnid in wnids]
    assert labels(dataset) == list(range(len(wnids))) and dataset.num_classes == len(wnids)
    assert dataset.metainfo['classes'] == tuple(f'thing {number}' for number in numbers)
    assert [Path(path).name for path, _ in infos(dataset)] == [f'{WNIDS[number]}.jpeg' for number in numbers]
    dataset = coop(name, 'test', data_root=str(tmp_path), label_space='imagenet')
    assert labels(dataset) == numbers and dataset.num_classes == 1000
    assert dataset.metainfo['classes'] == tuple(f'thing {number}' for number in range(1000))
    if len(wnids) == 200:  # The names of ImageNet beside it serve too.
        (tmp_path / 'imagenet').mkdir()
        shutil.move(folder / 'classnames.txt', tmp_path / 'imagenet')
        assert coop(name, 'test', data_root=str(tmp_path)).metainfo['classes'][1] == 'thing 5'
    else:
        (folder / 'classnames.txt').unlink()
        assert coop(name, 'test', data_root=str(tmp_path)).metainfo['classes'] == IMAGENET_SIMPLE_CATEGORIES


# Index files.


@pytest.mark.parametrize('of', [
    lambda indices, names: indices,
    lambda indices, names: names,
    lambda indices, names: dict(indices=indices),
    lambda indices, names: dict(paths=names, indices=indices),
    lambda indices, names: dict(indices=indices, data=[
        dict(impath=f'./data/eurosat/2750/{name}', label=0, classname='x') for name in names]),
])
def test_index_files(eurosat, of):
    rows = rows_of(10)
    indices = [7, 3, 25]
    content = {split: of(indices, [rows[split][index][0] for index in indices]) for split in ('train', 'val')}
    (eurosat / 'eurosat' / 'mine.json').write_text(json.dumps(content))
    for split in ('train', 'val'):
        dataset = coop('eurosat', split, data_root=str(eurosat), index_file='mine.json')
        assert infos(dataset) == [(str(eurosat / 'eurosat/2750' / rows[split][index][0]), rows[split][index][1])
                                  for index in indices]
    assert labels(coop('eurosat', data_root=str(eurosat), index_file='mine.json', subset='new')) == [2, 0]


@pytest.mark.parametrize('content, message', [
    ('[1]', 'must be an object like'),
    ('{', 'not JSON'),
    ('{"val": [1]}', 'chooses no images of train; it has val'),
    ('{"train": []}', 'list that is not empty'),
    ('{"train": [60]}', r'the index 60, outside of 0\.\.59'),
    ('{"train": [true]}', 'the index True'),
    ('{"train": ["x.jpg"]}', "the image 'x.jpg', which the list of train does not have"),
    ('{"train": {"indices": [1], "paths": ["train/class_0/0.jpg"]}}', 'disagree .*class_1/0.jpg'),
    ('{"train": {"indices": [0, 1], "paths": ["train/class_0/0.jpg"]}}', 'disagree .2 and 1 images'),
    ('{"train": [1], "n_shot": 4}', 'has 4 images of each class, where n_shot=2'),
])
def test_index_files_that_cannot_be_used(eurosat, content, message):
    (eurosat / 'eurosat' / 'bad.json').write_text(content)
    with pytest.raises(ValueError, match=f'bad.json: .*{message}'):
        coop('eurosat', data_root=str(eurosat), index_file='bad.json', n_shot=2)


# Prompts and names.


def test_prompts_and_names(eurosat):
    build = partial(coop, 'eurosat', 'test', data_root=str(eurosat))
    assert build().metainfo['templates'] == ('a centered satellite photo of {}.',)
    assert build(templates='photo').metainfo['templates'] == ('a photo of a {}.',)
    assert len(build(templates='ensemble').metainfo['templates']) == 7
    assert build(templates=['a {}', 'the {}']).metainfo['templates'] == ('a {}', 'the {}')
    names = [f'land {number}' for number in range(10)]
    assert build(classes=names, subset='new').metainfo['classes'] == tuple(names[5:])
    with pytest.raises(ValueError, match='has 10 classes, which classes='):
        build(classes=names[1:])


# Bad input.


@pytest.mark.parametrize('options, message', [
    (dict(split='trainval'), "split='trainval' must be one of 'train', 'val', 'test'$"),
    (dict(split='{val_split}'), 'settle_variables'),
    (dict(n_shot=0), 'n_shot=0 must be'),
    (dict(sampling='clip'), "sampling='clip' must be one of 'coop', 'clip_lora'"),
    (dict(seed=-1), 'seed=-1 must be'), (dict(seed='{seed}'), 'seed=.*settle_variables'),
    (dict(seed=True), 'seed=True'),
    (dict(subset='old'), "subset='old' must be one of 'all', 'base', 'new'"),
    (dict(split='test', index_file='a.json'), 'test has all'),
    (dict(templates='clip'), "templates='clip' must be one of 'set', 'photo', 'ensemble', or prompts"),
    (dict(templates=['a photo']), 'one {} each'), (dict(templates=[]), 'one {} each'),
    (dict(label_space='all'), 'label_space=.all. must be one of'),
    (dict(label_space='imagenet'), 'is for the sets that have classes of ImageNet, not for eurosat'),
])
def test_arguments(eurosat, options, message):
    with pytest.raises(ValueError, match=message):
        coop('eurosat', data_root=str(eurosat), **options)


def test_sets_for_tests_alone(tmp_path):
    with pytest.raises(ValueError, match="imagenet_a: split='train', but it is for tests alone"):
        coop('imagenet_a', data_root=str(tmp_path))


def broken(change):
    content = rows_of(10)
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize('text, message', [
    ('{', 'not JSON'), ('[]', 'must be an object with the lists train, val, test'),
    (broken(lambda c: c.pop('val')), 'must be an object with the lists'),
    (json.dumps(rows_of(9)), r'has 9 classes, where EuroSAT has 10; it lacks the labels \[9\]'),
    (json.dumps(rows_of(11)), 'has 11 classes, where EuroSAT has 10; it has labels up to 10'),
    (broken(lambda c: c['val'][3].pop()), r'val, entry 4: \["val/class_3/0.jpg", 3\] must be'),
    (broken(lambda c: c['val'][3].__setitem__(1, '3.')), "val, entry 4 has the label '3.'"),
    (broken(lambda c: c['val'][3].__setitem__(2, 'cat')), "class 3 is called 'cat' here and 'the_class 3' before"),
    (broken(lambda c: c['val'][3].__setitem__(0, '../a.jpg')), 'leaves the image folder'),
    (broken(lambda c: c['val'].append(['val/class_3/0.jpg', 4, 'the_class 4'])), 'has the label 4, but 3'),
])
def test_split_files_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / 'eurosat').mkdir()
    (tmp_path / 'eurosat' / 'split_zhou_EuroSAT.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        coop('eurosat', data_root=str(tmp_path), check_images=False)


def test_what_is_missing_is_named_with_its_source(eurosat):
    with pytest.raises(FileNotFoundError, match='no folder dtd or DTD in .* which has eurosat.* published at https'):
        coop('dtd', data_root=str(eurosat))
    with pytest.raises(FileNotFoundError, match='which does not exist'):
        coop('dtd', data_root=str(eurosat / 'none'))
    (eurosat / 'eurosat' / '2750' / 'train' / 'class_3' / '0.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='1 of the 60 images of .*: train/class_3/0.jpg'):
        coop('eurosat', data_root=str(eurosat))
    for name in ('dtd', 'DTD'):
        make_listed(eurosat / name, 'dtd', images=False)
    with pytest.raises(ValueError, match='has the folders DTD and dtd, which are names of one set'):
        coop('dtd', data_root=str(eurosat))


def test_broken_aircraft(tmp_path):
    folder = make_listed(tmp_path / 'fgvc_aircraft', 'fgvc_aircraft', images=False)
    build = partial(coop, 'fgvc', data_root=str(tmp_path), check_images=False)
    (folder / 'images_variant_val.txt').write_text('0000001 Concorde\n')
    with pytest.raises(ValueError, match="line 1: '0000001 Concorde' names the variant 'Concorde', which variants.txt"):
        build()
    (folder / 'images_variant_val.txt').unlink()
    with pytest.raises(FileNotFoundError, match='images_variant_val.txt from https'):
        build()
    (folder / 'variants.txt').write_text('A\nB\n')
    with pytest.raises(ValueError, match='has 2 classes, where FGVC-Aircraft has 100'):
        build()


def test_broken_imagenet(imagenet, tmp_path):
    build = partial(coop, 'imagenet', 'test', data_root=str(tmp_path))
    (tmp_path / 'imagenet').mkdir()
    with pytest.raises(FileNotFoundError, match='neither images/train and images/val nor train and val'):
        build()
    shutil.copytree(imagenet / 'imagenet/images/val', tmp_path / 'imagenet/val')
    assert len(build()) == 1000
    with pytest.raises(FileNotFoundError, match="'train' needs '.*/imagenet/train', which is not there; .* test"):
        coop('imagenet', n_shot=1, data_root=str(tmp_path))
    (tmp_path / 'imagenet/classnames.txt').write_text('n00000100 thing\n')
    with pytest.raises(ValueError, match='classnames.txt: has 1 classes, where ImageNet has 1000'):
        build()
    (tmp_path / 'imagenet/classnames.txt').write_text(class_names().replace(WNIDS[0], 'n99999999'))
    with pytest.raises(ValueError, match=f'no name for the folders {WNIDS[0]}: add them'):
        build()
    (tmp_path / 'imagenet/classnames.txt').write_text('n00000100\n')
    with pytest.raises(ValueError, match="line 1: 'n00000100' has no name"):
        build()
    (tmp_path / 'imagenet/val/other').mkdir()
    with pytest.raises(ValueError, match="has 1001 folders, such as 'other', which is none"):
        build()


@pytest.mark.skipif(not OFFICIAL, reason='MMLORA_COOP_SPLITS names no folder with split files of CoOp')
@pytest.mark.parametrize('name', [name for name in LISTED if name != 'fgvc_aircraft'])
def test_official_split_files(name):
    coop_set = COOP_SETS[name]
    path = Path(OFFICIAL) / coop_set.split_file
    if not path.is_file():
        pytest.skip(f'{path} is not there')
    splits, _ = read_split_file(path, coop_set.num_classes, coop_set.title)
    assert {split: len(images) for split, images in splits.items()} == coop_set.images
