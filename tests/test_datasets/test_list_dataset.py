import json
from pathlib import Path

import pytest
from layouts import write_image

from mmlora.datasets import ListDataset

CLASSES = ['cat', 'dog', '7']


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        write_image(tmp_path / 'images' / f'{number}.png', number, number)
    return tmp_path


def build(folder, name, content, **options):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding='utf-8')
    return ListDataset(name, data_root=str(folder), data_prefix='images', **options)


def labels_of(dataset):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [Path(info['img_path']).name for info in infos] == ['0.png', '1.png', '2.png']
    return [info['gt_label'] for info in infos]


@pytest.mark.parametrize('name, content, options', [
    ('a.txt', '0.png 0\n1.png 1\n2.png 2\n', {}),
    ('a.csv', 'image,label\n0.png,cat\n1.png,1\n2.png,7\n', {}),
    ('a.csv', '\ufefflabel,size,image\r\n0,3,0.png\r\n\r\n1,3,1.png\r\n2,"3,5",2.png\r\n', {}),
    ('a.CSV', 'Path,Class\n0.png,cat\n1.png,dog\n2.png,2\n', dict(columns=('Path', 'Class'))),
    ('a.json', [dict(image='0.png', label=0), dict(image='1.png', label='dog'), dict(image='2.png', label='7')], {}),
    ('a.json', [dict(f=f'{i}.png', c=i) for i in range(3)], dict(columns=['f', 'c'])),
])
def test_one_label(folder, name, content, options):
    dataset = build(folder, name, content, classes=CLASSES, **options)
    assert labels_of(dataset) == [0, 1, 2]
    assert dataset.CLASSES == ('cat', 'dog', '7') and dataset.metainfo['num_classes'] == 3
    assert dataset.get_gt_labels().tolist() == [0, 1, 2]


@pytest.mark.parametrize('name, content, options', [
    ('a.txt', '0.png 1 0 1\n1.png 0 0 0\n2.png 0 1 0\n', {}),
    ('a.csv', 'image,label\n0.png,cat|2\n1.png,\n2.png,dog\n', {}),
    ('a.csv', 'image,label\n0.png,7; 0\n1.png,\n2.png,1\n', dict(separator=';')),
    ('a.csv', 'image,dog,cat,7\n0.png,0,1,1\n1.png,0,0,0\n2.png,1,0,0\n', {}),
    ('a.json', [dict(image=f'{i}.png', label=label) for i, label in enumerate((['7', 0], [], [1]))], {}),
])
def test_several_labels(folder, name, content, options):
    dataset = build(folder, name, content, classes=CLASSES, multi_label=True, **options)
    assert labels_of(dataset) == [[0, 2], [], [1]]
    assert [dataset.get_cat_ids(i) for i in range(3)] == [[0, 2], [], [1]]


def test_number_of_classes_suffices(folder):
    dataset = build(folder, 'a.csv', 'image,label\n0.png,0\n1.png,1\n2.png,4\n', num_classes=5)
    assert labels_of(dataset) == [0, 1, 4] and dataset.CLASSES is None and dataset.metainfo['num_classes'] == 5


def test_images_of_another_list_are_left_out(folder):
    (folder / 'train.txt').write_text('1.png 1\n1.png 1\n')
    dataset = build(folder, 'all.txt', '0.png 0\n1.png 1\n2.png 2\n', classes=CLASSES, without='train.txt')
    assert [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))] == ['0.png', '2.png']


@pytest.mark.parametrize('name, content, options, message', [
    ('a.xml', '', {}, 'must end in one of .txt, .csv, .json'),
    ('a.txt', '0.png 0', dict(without='b.yaml'), r"'b.yaml' must end in"),
    ('a.txt', '0.png 0', dict(classes=None), 'needs classes'),
    ('a.txt', '0.png 0', dict(classes='classes.txt'), 'must be a list of names'),
    ('a.txt', '0.png 0', dict(classes=['a', 'a']), 'class occurs twice'),
    ('a.txt', '0.png 0', dict(num_classes=2), 'does not fit the 3 names'),
    ('a.txt', '0.png 0', dict(columns=['image']), 'must name two'),
    ('a.txt', '0.png 3', {}, r'line 1: .*outside of 0\.\.2'),
    ('a.csv', '', {}, r"no column 'image' but is empty"),
    ('a.csv', 'image,label\n', {}, 'list is empty'),
    ('a.csv', 'file,label\n0.png,0', {}, r"no column 'image' but 'file', 'label'; the first row"),
    ('a.csv', 'image,class\n0.png,0', {}, "no column 'label'"),
    ('a.csv', 'image,cat\n0.png,0', dict(multi_label=True), "no column 'label'"),
    ('a.csv', 'image,label\n0.png,bird', {}, r"line 2: '0.png' has the label 'bird'; the classes are cat, dog, 7"),
    ('a.csv', 'image,label\n0.png,', {}, "label ''"),
    ('a.csv', 'image,label\n0.png,3', {}, 'label 3, outside of'),
    ('a.csv', 'image,label\n0.png,0,1', {}, 'another number of fields'),
    ('a.csv', 'image,label\n0.png', {}, 'another number of fields'),
    ('a.csv', 'image,label\n"0.png,0', {}, 'not a CSV table'),
    ('a.csv', '"image,label\n0.png,0', {}, 'line 1: not a CSV table'),
    ('a.csv', 'image,label\n/0.png,0', {}, 'absolute path'),
    ('a.csv', 'image,label\n0.png,0|0', dict(multi_label=True), 'label twice'),
    ('a.csv', 'image,cat,dog,7\n0.png,0,2,0', dict(multi_label=True), "'2' in column 'dog'"),
    ('a.csv', 'image,label\n0.png,0\n0.png,1', {}, 'label 1, but 0 in line 2'),
    ('a.json', '{', {}, 'not JSON'),
    ('a.json', {'a': 1}, {}, 'must be a list of objects'),
    ('a.json', {'metainfo': {}, 'data_list': []}, {}, "use type='BaseDataset'"),
    ('a.json', [], {}, 'list is empty'),
    ('a.json', [dict(image='0.png')], {}, 'entry 1: .*keys'),
    ('a.json', ['0.png'], {}, 'entry 1: .*must be an object'),
    ('a.json', [dict(image=1, label=0)], {}, 'not text'),
    ('a.json', [dict(image='0.png', label=[0])], {}, 'is a list, .*: set multi_label=True, or write one label'),
    ('a.json', [dict(image='0.png', label=[])], {}, 'its label is a list'),
    ('a.json', [dict(image='0.png', label=0)], dict(multi_label=True),
     r'multi_label=True needs a list of labels, such as \[0\]'),
    ('a.json', [dict(image='0.png', label=1.0)], {}, 'label 1.0 where a class index'),
    ('a.json', [dict(image='0.png', label=True)], {}, 'label True where'),
    ('a.json', [dict(image='0.png', label={'a': 1})], {}, 'where a class index'),
])
def test_faults_are_quoted(folder, name, content, options, message):
    with pytest.raises(ValueError, match=message):
        build(folder, name, content, **{'classes': CLASSES, **options})


def test_missing_files(folder):
    with pytest.raises(FileNotFoundError, match='no list .*none.csv'):
        ListDataset('none.csv', classes=CLASSES, data_root=str(folder))
    with pytest.raises(FileNotFoundError, match='1 of the 1 images'):
        build(folder, 'a.txt', '9.png 0', classes=CLASSES)
