"""tools/make_splits.py coop: files that choose the images which the data set draws."""

import json

import pytest
from coop_layouts import make_imagenet, make_listed
from tiny import call_tool

from mmlora.datasets import CoOpDataset


@pytest.fixture
def root(tmp_path):
    make_listed(tmp_path / 'eurosat', 'eurosat')
    return tmp_path


def images(*args, **options):
    dataset = CoOpDataset(*args, serialize_data=False, **options)
    return [(info['img_path'], info['gt_label']) for info in dataset.data_list]


@pytest.mark.parametrize('sampling', ['coop', 'clip_lora'])
def test_written_and_read(root, sampling, capsys):
    command = ['make_splits', 'coop', '--data-root', root, '--sampling', sampling, '--shots', 1, 8, '--seeds', 1, 2]
    assert call_tool(*command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for n_shot, seed in ((1, 1), (1, 2), (8, 1), (8, 2)):
        file = f'few_shot/{sampling}/shot_{n_shot}-seed_{seed}.json'
        for split in ('train', 'val'):
            drawn = images('eurosat', split, n_shot, sampling, seed, data_root=str(root))
            assert drawn == images('eurosat', split, data_root=str(root), index_file=file)
    content = json.loads((root / 'eurosat' / file).read_text())
    assert content['sampling'] == sampling and len(content['train']['indices']) == 80
    assert call_tool(*command) == 0 and 'as it was' in capsys.readouterr().out
    (root / 'eurosat' / file).write_text('{}')
    assert call_tool(*command) == 2 and (root / 'eurosat' / file).read_text() == '{}'
    assert call_tool(*command, '--force') == 0 and json.loads((root / 'eurosat' / file).read_text()) == content


def test_imagenet_has_val_in_train(tmp_path):
    make_imagenet(tmp_path / 'imagenet')
    command = ['make_splits', 'coop', '--data-root', tmp_path, '--name', 'imagenet', '--shots', 1, '--seeds', 1]
    out = tmp_path / 'out'
    for sampling in ('coop', 'clip_lora'):
        assert call_tool(*command, '--out', out, '--sampling', sampling) == 0
    file = out / 'imagenet' / 'few_shot' / 'clip_lora' / 'shot_1-seed_1.json'
    for split in ('train', 'val'):
        assert images('imagenet', split, data_root=str(tmp_path), index_file=str(file)) == images(
            'imagenet', split, 1, 'clip_lora', data_root=str(tmp_path))
    assert 'val' not in json.loads((file.parents[1] / 'coop' / file.name).read_text())


@pytest.mark.parametrize('options, message', [
    (['--name', 'dtd'], 'no folder dtd or DTD'), (['--name', 'dtds'], "no set 'dtds'"), (['--shots', '0'], 'shots='),
    (['--seeds', '-1'], 'seeds='), (['--data-root', 'nowhere'], "'nowhere' has no folder of a set of CoOp"),
    (['--name', 'imagenet_a'], 'tests alone'),
])
def test_bad_input(root, options, message, capsys):
    (root / 'imagenet-adversarial').mkdir()
    assert call_tool('make_splits', 'coop', '--data-root', root, *options) == 2
    assert message in capsys.readouterr().err
