"""Images of one's own in one folder per class, with names."""

import json
from functools import partial
from pathlib import Path

import pytest
from coop_layouts import touch

from mmlora.datasets import ClassFolders

folders = partial(ClassFolders, serialize_data=False)
BIRDS = ['carrion_crow', 'jay', 'snowy_owl']


@pytest.fixture
def birds(tmp_path):
    for split, count in (('train', 8), ('val', 5), ('test', 2)):
        for bird in BIRDS:
            for number in range(count):
                touch(tmp_path / split / bird / f'{number}.jpg')
    touch(tmp_path / 'train' / 'jay' / 'notes.txt')
    touch(tmp_path / 'train' / '.cache' / '1.jpg')
    return tmp_path


def infos(dataset):
    return [(info['img_path'], info['gt_label']) for info in map(dataset.get_data_info, range(len(dataset)))]


def counts(dataset):
    labels = [label for _, label in infos(dataset)]
    return [labels.count(label) for label in range(dataset.num_classes)]


def test_folders_are_the_classes(birds):
    for split, count in (('train', 8), ('val', 5), ('test', 2)):
        dataset = folders(split, data_root=str(birds))
        assert counts(dataset) == [count] * 3 and all(Path(path).is_file() for path, _ in infos(dataset))
        assert dataset.metainfo['classes'] == ('carrion crow', 'jay', 'snowy owl')
        assert dataset.metainfo['templates'] == ('a photo of a {}.',)
    assert infos(dataset)[2] == (str(birds / 'test' / 'jay' / '0.jpg'), 1)


@pytest.mark.parametrize('sampling', ['coop', 'clip_lora'])
def test_few_shots(birds, sampling):
    train, val = (folders(split, 5, sampling, data_root=str(birds)) for split in ('train', 'val'))
    assert counts(train) == [5] * 3 and counts(val) == [4] * 3
    assert infos(train) != infos(folders('train', 5, sampling, seed=2, data_root=str(birds)))
    assert counts(folders('test', 5, sampling, data_root=str(birds))) == [2] * 3
    assert counts(folders('train', 5, sampling, subset='base', data_root=str(birds))) == [5, 5]
    new = folders('train', 5, sampling, subset='new', data_root=str(birds))
    assert counts(new) == [5] and new.metainfo['classes'] == ('snowy owl',)


def test_without_a_folder_of_validation_images(birds):
    build = partial(folders, data_root=str(birds), folders=dict(val='none'))
    train, val = (build(split, 4, 'clip_lora') for split in ('train', 'val'))
    assert counts(train) == counts(val) == [4] * 3 and not set(infos(train)) & set(infos(val))
    with pytest.raises(ValueError, match='class 0 has 8 training images.* 5 for training and 4 for validation'):
        build('train', 5, 'clip_lora')
    for options in (dict(n_shot=4), dict()):
        with pytest.raises(FileNotFoundError, match="'val' needs '.*/none', which is not there; there is train, test"):
            build('val', **options)
    (birds / 'mine.json').write_text(json.dumps(dict(val=['train/jay/7.jpg'], train=[0])))
    assert infos(build('val', index_file='mine.json')) == [(str(birds / 'train/jay/7.jpg'), 1)]


@pytest.mark.parametrize('name, text', [
    ('names.json', json.dumps({'carrion_crow': 'corvus', 'jay': 'garrulus_glandarius', 'snowy_owl': 'bubo', 'x': 'y'})),
    ('names.txt', 'jay garrulus glandarius\n\ncarrion_crow corvus\nsnowy_owl bubo\n'),
])
def test_names_from_a_file(birds, name, text):
    (birds / name).write_text(text)
    assert folders(data_root=str(birds), names=name).metainfo['classes'] == ('corvus', 'garrulus glandarius', 'bubo')


def test_names_of_the_config(birds):
    names = dict(zip(BIRDS, ('a', 'b', 'c'), strict=True))
    assert folders(data_root=str(birds), names=names).metainfo['classes'] == ('a', 'b', 'c')
    with pytest.raises(ValueError, match='names has no name for the folders snowy_owl: add them'):
        folders(data_root=str(birds), names=dict(carrion_crow='a', jay='b'))


@pytest.mark.parametrize('name, text, message', [
    ('a.json', '{', 'not JSON'), ('a.json', '["jay"]', 'must be an object'), ('a.json', '{"jay": 1}', 'must be an obj'),
    ('a.txt', 'jay\n', "line 1: 'jay' has no name"), ('a.txt', '\n', 'has no names'),
    ('a.txt', 'jay a\njay b\n', "line 2: 'jay' is 'a' above and 'b' here"),
    ('a.txt', 'jay a\n', 'has no name for the folders carrion_crow, snowy_owl'),
])
def test_names_that_cannot_be_used(birds, name, text, message):
    (birds / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        folders(data_root=str(birds), names=name)


def test_no_classes_are_left(tmp_path):
    touch(tmp_path / 'train' / 'jay' / '1.jpg')
    assert counts(folders(data_root=str(tmp_path), subset='base')) == [1]
    with pytest.raises(ValueError, match="subset='new' of 1 classes has none: there must be at least 2"):
        folders(data_root=str(tmp_path), subset='new')
    (tmp_path / 'empty' / 'train').mkdir(parents=True)
    with pytest.raises(ValueError, match="subset='all' of 0 classes has none"):
        folders(data_root=str(tmp_path / 'empty'))


def test_bad_input(birds):
    with pytest.raises(FileNotFoundError, match="no folder '.*/none/train', which should hold one folder"):
        folders(data_root=str(birds / 'none'))
    with pytest.raises(FileNotFoundError, match='no list .*none.txt'):
        folders(data_root=str(birds), names='none.txt')
    with pytest.raises(ValueError, match='must be folders of train, val, test'):
        folders(data_root=str(birds), folders=dict(valid='val'))
    with pytest.raises(ValueError, match="split='all' must be one of"):
        folders('all', data_root=str(birds))
    touch(birds / 'test' / 'magpie' / '1.jpg')
    with pytest.raises(ValueError, match="test' has the class 'magpie', which '.*train' lacks"):
        folders(data_root=str(birds))
    for path in (birds / 'train').rglob('*.jpg'):
        path.unlink()
    (birds / 'test' / 'magpie' / '1.jpg').unlink()
    (birds / 'test' / 'magpie').rmdir()
    with pytest.raises(ValueError, match="train' has no images in folders of classes; a name ends in .jpg"):
        folders(data_root=str(birds))
