"""VTAB-1k from a data set that stands for tensorflow_datasets, and what is read back."""

import importlib.util
import io
import json
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import call_tool, quick, quick_runs  # noqa: F401

from mmlora.apis import prepare_vtab as module
from mmlora.apis.prepare_vtab import prepare_vtab
from mmlora.apis.tfds_source import TFDSSource, open_tfds
from mmlora.datasets import VTAB_SETS, VTAB1k, find_vtab_set, vtab_rules

COUNTS = {
    'kitti': dict(train=810, validation=205, test=711),
    'dtd': dict(train=70, validation=30, test=36),
    'oxford_iiit_pet': dict(train=3680, test=36),
}
SMALL = dict(train800=40, val200=10, train800val200=50, test=36)
LISTS = ('train800', 'val200', 'train800val200', 'test')


class FakeSource:
    """Examples made from the name of the split and their number."""

    def __init__(self, name, version, stop_at=None, **counts):
        self.name, self.version, self.stop_at = name, version, stop_at
        self.counts = {**COUNTS[name], **counts}

    def count(self, split):
        return self.counts[split]

    def example(self, split, index):
        number = index * 7 + len(split)
        image = np.full((8, 8, 3), number % 251, np.uint8)
        image[:4, :, 1] = number // 251 * 9 % 256
        image[0, 0] = list(split.encode()[:3])
        kinds, depths = [4, number % 4], [1.0, 6.0 * (number % 5) + 1]
        location = np.stack([np.zeros(2), np.zeros(2), depths], 1).astype(np.float32)
        return dict(image=image, label=np.int64(number % 37), objects=dict(type=np.array(kinds), location=location))

    def read(self, slices):
        given = 0
        for part in slices.split('+'):
            split, cut = re.fullmatch(r'(\w+)(?:\[(.*)\])?', part).groups()
            numbers = [int(text) if text else None for text in (cut or ':').split(':')]
            for index in range(self.counts[split])[slice(*numbers)]:
                if self.stop_at == (split, given):
                    raise KeyboardInterrupt
                given += 1
                yield self.example(split, index)


def opener(opened=None, **options):
    """Return what opens fake sources, and writes down what it was asked for."""
    def open_source(name, version, folder):
        if opened is not None:
            opened.append((name, version, folder))
        return FakeSource(name, options.pop('version', None) or version or '9.9.9', **options)

    return open_source


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def make_small(patch):
    """Let VTAB-1k have 40 + 10 training and 36 test images, and let few be written at once."""
    for place in (module, vtab_rules):
        patch.setattr(place, 'TRAIN', SMALL['train800'])
        patch.setattr(place, 'VAL', SMALL['val200'])
    patch.setattr(module, 'CHUNK', 16)
    patch.setattr(module, 'find_vtab_set', lambda name: replace(find_vtab_set(name), test_images=SMALL['test']))
    for name in COUNTS:
        patch.setitem(COUNTS, name, {**COUNTS[name], 'test': SMALL['test']})


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """kitti in its real numbers, and what was said. Not to be written to."""
    out, said = tmp_path_factory.mktemp('vtab') / 'vtab-1k', []
    with quick_runs():
        assert prepare_vtab(out, ['KITTI'], open_source=opener(), say=said.append) == {}
    return out, said


@pytest.fixture(scope='module')
def small_whole(tmp_path_factory):
    """kitti and dtd in small numbers. Not to be written to."""
    out = tmp_path_factory.mktemp('small') / 'vtab-1k'
    with quick_runs(), pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        assert prepare_vtab(out, ['kitti', 'dtd'], open_source=opener(), say=str) == {}
    return out


@pytest.fixture
def copy(small, small_whole, tmp_path):
    """A copy of the small kitti in a folder of its own."""
    shutil.copytree(small_whole / 'kitti', tmp_path / 'kitti')
    return tmp_path


def check_read_back(out, name, sizes, train, val):
    source, rule = FakeSource(name, ''), vtab_rules.VTAB_RULES[name]
    slices = dict(train800=train, val200=val, test='test', train800val200=f'{train}+{val}')
    for split in LISTS:
        dataset = VTAB1k(name, split, data_root=str(out), serialize_data=False)
        wanted = list(source.read(slices[split]))
        assert len(dataset) == len(wanted) == sizes[split]
        assert dataset.get_gt_labels().tolist() == [rule.label(example) for example in wanted]
        for index in (0, 1, sizes[split] - 1):
            path = Path(dataset.get_data_info(index)['img_path'])
            assert path.relative_to(out).as_posix() == f'{name}/images/{split}/{index:06d}.jpg'
            saved = io.BytesIO()
            Image.fromarray(wanted[index]['image']).save(saved, 'JPEG')  # As published: Pillow's own quality.
            assert path.read_bytes() == saved.getvalue()
    assert len(set(dataset.get_gt_labels())) > 3


def test_what_is_written_is_read_back(whole):
    sizes = dict(train800=800, val200=200, train800val200=1000, test=VTAB_SETS['kitti'].test_images)
    check_read_back(whole[0], 'kitti', sizes, 'train[:800]', 'validation[:200]')


@pytest.mark.parametrize('name', ['kitti', 'dtd'])
def test_several_sets_are_read_back(small, small_whole, name):
    check_read_back(small_whole, name, SMALL, 'train[:40]', 'validation[:10]')


def test_what_is_said_and_noted(whole):
    out, said = whole
    assert said[0].startswith('1 sets of 2711 images in all go to')
    assert any(re.fullmatch(r'kitti: train800, val200, train800val200, test take about 11 MiB, .* GiB are free', text)
               for text in said)
    about = json.loads((out / 'kitti' / 'prepared.json').read_text())
    assert about == dict(
        set='kitti', source='kitti', version='3.2.0', image_format='jpg', complete=True, differs=[],
        saved_with=dict(format='JPEG', quality=75), slices=dict(
            train800='train[:800]', val200='validation[:200]', train800val200='train[:800]+validation[:200]',
            test='test'))


def test_the_check_of_a_config_finds_nothing_wrong(whole, root, capsys):
    config = root / 'configs/sr_lora/sr-lora_vit-base-p16_in21k-pre_1xb4-coslr-20e_vtab1k-kitti.py'
    folder = f'dataset.data_root={whole[0]}'
    status = call_tool('check_data', config, '--cfg-options', 'shot=None', f'train_dataloader.{folder}',
                       f'test_dataloader.{folder}')
    printed = capsys.readouterr().out
    assert status == 0 and '1000' in printed and '711' in printed


def test_a_whole_set_is_left_alone(copy):
    before, opened, said = contents(copy), [], []
    assert prepare_vtab(copy, ['kitti'], open_source=opener(opened), say=said.append) == {}
    assert contents(copy) == before and opened == [] and said[-1] == 'kitti: was prepared before'


@pytest.mark.parametrize('stop_at', [('train', 34), ('validation', 44), ('test', 35)])
def test_an_interrupted_run_goes_on(small, small_whole, tmp_path, stop_at):
    with pytest.raises(KeyboardInterrupt):
        prepare_vtab(tmp_path, ['kitti'], open_source=opener(stop_at=stop_at), say=str)
    begun = contents(tmp_path)
    assert 0 < len(begun) < len(contents(small_whole / 'kitti'))
    assert json.loads(begun['kitti/prepared.json'])['complete'] is False
    leftover = tmp_path / 'kitti' / 'images' / 'test' / '.000001.jpg.abc.tmp'
    leftover.parent.mkdir(parents=True, exist_ok=True)
    leftover.write_bytes(b'half')
    assert prepare_vtab(tmp_path, ['kitti'], open_source=opener(), say=str) == {}
    assert contents(tmp_path / 'kitti') == contents(small_whole / 'kitti')


def test_png_without_loss(small, tmp_path):
    assert prepare_vtab(tmp_path, ['kitti'], image_format='png', open_source=opener(), say=str) == {}
    dataset = VTAB1k('kitti', 'val200', data_root=str(tmp_path))
    path = dataset.get_data_info(5)['img_path']
    assert path.endswith('images/val200/000005.png')
    assert np.array_equal(np.asarray(Image.open(path)), FakeSource('kitti', '').example('validation', 5)['image'])
    assert json.loads((tmp_path / 'kitti' / 'prepared.json').read_text())['saved_with'] == dict(format='PNG')


def test_versions(small, tmp_path):
    opened, said = [], []
    found = prepare_vtab(tmp_path, ['kitti'], tfds_dir='/disk', open_source=opener(opened, version='3.3.0'),
                         say=said.append)
    assert re.search(r'version 3\.3\.0, and results in use are on 3\.2\.0\. --tfds-version any', found['kitti'])
    assert not (tmp_path / 'kitti').exists()
    found = prepare_vtab(tmp_path, ['kitti'], tfds_version='any', open_source=opener(opened, test=30), say=said.append)
    assert found == {} and opened == [('kitti', '3.2.0', '/disk'), ('kitti', None, None)]
    assert any('NOTE: kitti: it is version 9.9.9' in text for text in said)
    assert any('it gives 30 test images, and VTAB-1k has 36' in text for text in said)
    assert len(VTAB1k('kitti', 'test', data_root=str(tmp_path))) == 30
    assert len(json.loads((tmp_path / 'kitti' / 'prepared.json').read_text())['differs']) == 2
    found = prepare_vtab(tmp_path, ['kitti'], open_source=opener(), say=str)
    assert 'was begun with jpg images of kitti 9.9.9, not jpg of 3.2.0' in found['kitti']


BAD = {
    'too few test images': (dict(test=30), 'gives 30 test images, and VTAB-1k has 36'),
    'too many test images': (dict(test=37), 'gives 37 test images'),
    'too few training images': (dict(train=39), r"'train\[:40\]' of kitti 3\.2\.0 gives 39 images instead of 40"),
    'no test image': (dict(test=0), 'gives no image'),
}


@pytest.mark.parametrize('case', BAD)
def test_wrong_numbers_of_images(small, tmp_path, case):
    options, message = BAD[case]
    found = prepare_vtab(tmp_path, ['kitti'], open_source=opener(**options), say=str)
    assert re.search(message, found['kitti'])
    assert not (tmp_path / 'kitti' / 'test.txt').exists()


def test_a_cut_of_another_number_of_images(tmp_path):
    found = prepare_vtab(tmp_path, ['pets'], open_source=opener(train=3600), say=str)
    assert 'has 3600 images, and VTAB-1k is cut from 3680' in found['oxford_iiit_pet']


def test_one_set_that_fails_does_not_stop_the_others(small, small_whole, tmp_path):
    def open_source(name, version, folder):
        if name == 'dtd':
            raise ValueError('download it by hand')
        return FakeSource(name, version)

    said = []
    assert prepare_vtab(tmp_path, ['dtd', 'kitti'], open_source=open_source, say=said.append) == {
        'dtd': 'download it by hand'}
    assert 'dtd: FAILED: download it by hand' in said
    assert contents(tmp_path / 'kitti') == contents(small_whole / 'kitti')


@pytest.mark.parametrize(('example', 'message'), [
    (dict(label=np.int64(37)), r'label 37, outside of 0\.\.36'),
    (dict(image=np.zeros((8, 8, 3), np.float32)), r'is float32 of the shape \(8, 8, 3\)'),
    (dict(image=np.zeros((8, 8, 4), np.uint8)), r'is uint8 of the shape \(8, 8, 4\)'),
])
def test_examples_that_cannot_be_used(small, tmp_path, monkeypatch, example, message):
    real = FakeSource.example
    monkeypatch.setattr(FakeSource, 'example', lambda self, split, index: {**real(self, split, index), **example})
    found = prepare_vtab(tmp_path, ['pets'], open_source=opener(), say=str)
    assert re.search(message, found['oxford_iiit_pet'])


def test_folders_that_hold_something_else(copy):
    for options, message in (
        (dict(image_format='png'), 'begun with jpg images of kitti 3.2.0, not png'),
        (dict(tfds_version='any', image_format='png'), 'not png of 3.2.0'),
    ):
        assert message in prepare_vtab(copy, ['kitti'], open_source=opener(), say=str, **options)['kitti']
    (copy / 'kitti' / 'prepared.json').write_text('{"version": ')
    assert 'cannot be read' in prepare_vtab(copy, ['kitti'], open_source=opener(), say=str)['kitti']
    (copy / 'kitti' / 'prepared.json').unlink()
    before = contents(copy)
    assert 'it can be used as it is' in prepare_vtab(copy, ['kitti'], open_source=opener(), say=str)['kitti']
    (copy / 'pets').mkdir()
    found = prepare_vtab(copy, ['oxford_iiit_pet'], open_source=opener(), say=str)
    assert 'has a folder pets, which is another name of oxford_iiit_pet' in found['oxford_iiit_pet']
    assert contents(copy) == before


def test_a_set_begun_with_another_version_is_not_completed(copy):
    marker = copy / 'kitti' / 'prepared.json'
    marker.write_text(json.dumps(dict(json.loads(marker.read_text()), complete=False)))
    found = prepare_vtab(copy, ['kitti'], tfds_version='any', open_source=opener(), say=str)
    assert 'was begun with version 3.2.0 of kitti, and this is 9.9.9' in found['kitti']


def test_files_that_were_changed_meanwhile_are_found(copy):
    marker = copy / 'kitti' / 'prepared.json'
    marker.write_text(json.dumps(dict(json.loads(marker.read_text()), complete=False)))
    image = copy / 'kitti' / 'images' / 'val200' / '000003.jpg'
    image.write_bytes(image.read_bytes() + b' ')
    found = prepare_vtab(copy, ['kitti'], open_source=opener(), say=str)
    assert 'other images or labels than train800.txt and val200.txt together' in found['kitti']


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: types.SimpleNamespace(free=2**20))
    found = prepare_vtab(tmp_path, ['kitti'], open_source=opener(), say=str)
    assert re.search(r'needs about 11 MiB and has 1: make room', found['kitti'])
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(('options', 'message'), [
    (dict(names=['mnist']), "no set 'mnist'"), (dict(image_format='gif'), "image_format 'gif': choose from jpg, png"),
    (dict(tfds_version='3'), "tfds_version '3': choose from published, any"), (dict(workers=0), 'workers .* got 0'),
])
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_vtab(tmp_path, **options)


def test_without_tensorflow_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(ImportError, match=r'pip install "mmlora\[vtab\]"'):
        open_tfds('kitti', '3.2.0', None)
    assert call_tool('prepare_vtab', '--out', tmp_path / 'new', '--names', 'kitti') == 2
    assert 'mmlora[vtab]' in capsys.readouterr().err and not (tmp_path / 'new').exists()


class FakeBuilder:
    """What tensorflow_datasets returns."""

    version = '3.2.0'
    info = types.SimpleNamespace(splits=dict(test=types.SimpleNamespace(num_examples=711)))

    def download_and_prepare(self):
        self.prepared = True

    def as_dataset(self, split, shuffle_files):
        assert self.prepared and not shuffle_files
        return [split]


def test_what_tensorflow_datasets_is_asked(monkeypatch):
    asked = []

    def builder(name, data_dir):
        asked.append((name, data_dir))
        if ':9' in name:
            raise AssertionError('only: 3.2.0')
        return FakeBuilder()

    fake = types.SimpleNamespace(builder=builder, as_numpy=lambda data: ['numpy', *data])
    monkeypatch.setitem(sys.modules, 'tensorflow', types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', fake)
    source = open_tfds('kitti', '3.2.0', '/disk')
    assert isinstance(source, TFDSSource) and source.version == '3.2.0' and source.count('test') == 711
    assert source.read('test[:5]') == ['numpy', 'test[:5]']
    open_tfds('kitti', None, None)
    assert asked == [('kitti:3.2.0', '/disk'), ('kitti', None)]
    with pytest.raises(ValueError, match=r'kitti at version 9: only: 3\.2\.0.*--tfds-version any'):
        open_tfds('kitti', '9', None)

    def by_hand(self):
        raise AssertionError('Manual directory does not exist')

    monkeypatch.setattr(FakeBuilder, 'download_and_prepare', by_hand)
    with pytest.raises(ValueError, match='kitti cannot be downloaded.*Manual directory'):
        open_tfds('kitti', '3.2.0', None)


def test_the_page_on_data_sets_says_what_the_tool_does(root):
    text = (root / 'docs' / 'datasets.md').read_text(encoding='utf-8')
    commands = re.findall(r'^python tools/prepare_vtab.py (.*)$', text, re.MULTILINE)
    spec = importlib.util.spec_from_file_location('prepare_vtab_tool', root / 'tools' / 'prepare_vtab.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    parsed = [tool.parse_args(command.split()) for command in commands]
    assert [args.tfds_version for args in parsed] == ['published', 'any'] and parsed[0].names == ['eurosat', 'kitti']
    for name, rule in vtab_rules.VTAB_RULES.items():
        slices = vtab_rules.vtab_slices(rule, {**dict.fromkeys(rule.splits, 10**6), **rule.sizes})
        cells = (name, f'`{rule.source}:{rule.version}`', f'`{slices["val200"]}`', f'`{slices["test"]}`')
        assert f'| {" | ".join(cells)} |' in text
