"""Folders of LoRAs, hubs of them, and the files of the published code."""

import copy
import json
import os
import pickle

import numpy as np
import pytest
import torch
from mmpretrain.models import VisionTransformer
from safetensors.torch import save_file

from mmlora.adapters import Pair, adapt_with, draw_lora
from mmlora.io import atomic
from mmlora.io import hub as hub_module
from mmlora.io.hub import LoRAHub, member_name, write_index
from mmlora.io.lora_folder import Head, read_lora_folder, write_lora_folder
from mmlora.io.published_hub import published_members, read_published_labels, read_published_lora

SITES = ['layers.0.attn.qkv', 'layers.1.attn.qkv', 'layers.1.ffn.layers.1']


@pytest.fixture(scope='module')
def backbone():
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
    model = VisionTransformer(arch=arch, img_size=16, patch_size=8)
    model.eval()
    return model


def drawn(model, rank=2, scaling=0.5, slices='qv', sites=SITES, seed=0):
    torch.manual_seed(seed)
    weights = draw_lora(model, sites, rank, slices, scaling)
    return {key: Pair(pair.a, torch.randn_like(pair.b), scaling) for key, pair in weights.items()}


def head(seed=0):
    torch.manual_seed(seed)
    return Head(torch.randn(2, 16), torch.randn(2))


def record(**changes):
    return dict(dict(classes=['a', 'b'], class_ids=[3, 7], task=dict(number=0, seed=1), metrics={'accuracy/top1': 90.0},
                     normalization=dict(mean=[0, 0, 0], std=[1, 1, 1]), base=dict(sha256='abc', name='x')), **changes)


def same(first, second):
    return list(first) == list(second) and all(
        torch.equal(own.a, other.a) and torch.equal(own.b, other.b) and own.scaling == other.scaling
        for own, other in zip(first.values(), second.values(), strict=True))


CASES = {
    'q and v': dict(),
    'one scaling is none of a rule': dict(scaling=0.1),
    'all three': dict(slices='qkv', rank=3),
    'as one weight': dict(slices=None),
    'k alone': dict(slices='k', sites=SITES[:1]),
}


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_what_is_written_is_read(backbone, tmp_path, case):
    weights, own = drawn(backbone, **case), head()
    write_lora_folder(tmp_path / 'a', weights, record(), own, '# Card\n')
    found = read_lora_folder(tmp_path / 'a')
    assert same(found.weights, weights)
    assert torch.equal(found.head.weight, own.weight) and torch.equal(found.head.bias, own.bias)
    assert found.record['classes'] == ['a', 'b'] and (tmp_path / 'a' / 'README.md').read_text().startswith(
        '# Card\n\n## Base weights\n\n`x`, sha256 `abc`.\n\n## Ranks\n\n| layer | rank | scaling |')


def test_ranks_and_scalings_may_differ_among_slices(backbone, tmp_path):
    weights = drawn(backbone)
    key = 'layers.0.attn.qkv', 'v'
    weights[key] = Pair(torch.randn(3, 16), torch.randn(16, 3), 2.0)
    write_lora_folder(tmp_path / 'a', weights, {})
    found = read_lora_folder(tmp_path / 'a').weights
    for name, pair in weights.items():
        torch.testing.assert_close(found[name].delta(), pair.delta())
    assert found[key].rank == 3


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_peft_computes_the_same_and_back(backbone, tmp_path, case):
    peft = pytest.importorskip('peft')
    weights, x = drawn(backbone, **case), torch.randn(2, 3, 16, 16)
    write_lora_folder(tmp_path / 'a', weights, record(), head())
    ours = copy.deepcopy(backbone)
    adapt_with(ours, weights)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(backbone), str(tmp_path / 'a'))
    theirs.eval()
    torch.testing.assert_close(theirs(x)[-1], ours(x)[-1])
    assert (ours(x)[-1] - backbone(x)[-1]).abs().max() > 0.01
    theirs.save_pretrained(str(tmp_path / 'b'))
    again = copy.deepcopy(backbone)
    adapt_with(again, read_lora_folder(tmp_path / 'b').weights)
    torch.testing.assert_close(again(x)[-1], ours(x)[-1])


def test_a_folder_without_its_record_is_not_whole(backbone, tmp_path, monkeypatch):
    """A process that is killed before the last file leaves nothing that looks like a member."""
    from mmlora.io import lora_folder

    write_lora_folder(tmp_path / '00000', drawn(backbone), record(), head())

    def die(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(lora_folder, 'write_text', die)
    with pytest.raises(KeyboardInterrupt):
        write_lora_folder(tmp_path / '00000', drawn(backbone, seed=1), record(), head(1))
    assert hub_module.member_records(tmp_path) == {}
    with pytest.raises(ValueError, match='has a head.safetensors and no mmlora.json, as a process leaves it'):
        read_lora_folder(tmp_path / '00000')
    monkeypatch.undo()
    write_lora_folder(tmp_path / '00000', drawn(backbone, seed=1), record())
    found = read_lora_folder(tmp_path / '00000')
    assert same(found.weights, drawn(backbone, seed=1)) and found.head is None


def test_old_and_new_files_are_never_read_together(backbone, tmp_path, monkeypatch):
    """Killed between the factors and the config, which would give the new factors the old scaling."""
    from mmlora.io import lora_folder

    def die(path, data):
        if path.name == lora_folder.CONFIG:
            raise KeyboardInterrupt
        return atomic.write_bytes(path, data)

    write_lora_folder(tmp_path / 'a', drawn(backbone), {})
    monkeypatch.setattr(lora_folder, 'write_bytes', die)
    with pytest.raises(KeyboardInterrupt):
        write_lora_folder(tmp_path / 'a', drawn(backbone, scaling=2.0), {})
    with pytest.raises(FileNotFoundError, match='it has no adapter_config.json'):
        read_lora_folder(tmp_path / 'a')


def test_slices_that_change_nothing_are_written(backbone, tmp_path):
    write_lora_folder(tmp_path / 'a', drawn(backbone, scaling=0.0), {})
    assert same(read_lora_folder(tmp_path / 'a').weights, drawn(backbone, scaling=0.0))


def change_record(path, **changes):
    content = json.loads((path / 'mmlora.json').read_text())
    (path / 'mmlora.json').write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize('files', [
    {}, {'adapter_config.json': '', 'adapter_model.safetensors': ''}, {'../../secret': ''}, {'/etc/hostname': ''},
], ids=['nothing', 'no head', 'above', 'elsewhere'])
def test_a_record_names_the_files_of_its_folder_and_no_others(backbone, tmp_path, files):
    write_lora_folder(tmp_path / 'a', drawn(backbone), record(), head())
    change_record(tmp_path / 'a', files=files)
    with pytest.raises(ValueError, match='has the hashes of .*, where those of .* belong: write the folder anew'):
        read_lora_folder(tmp_path / 'a')


@pytest.mark.parametrize('changes', [
    dict(slices={SITES[0]: 4}), dict(slices={SITES[0]: {'q': '2'}}), dict(slices={SITES[0]: {'q': -2, 'v': 6}}),
    dict(head=3), dict(head=[2]), dict(head='yes'),
])
def test_sizes_in_a_record_are_numbers(backbone, tmp_path, changes):
    write_lora_folder(tmp_path / 'a', drawn(backbone), record(), head())
    change_record(tmp_path / 'a', **changes)
    with pytest.raises(ValueError, match='where sizes belong: write the folder anew'):
        read_lora_folder(tmp_path / 'a')


@pytest.mark.parametrize('change, error, message', [
    (lambda p: (p / 'head.safetensors').unlink(), FileNotFoundError, 'head.safetensors is missing'),
    (lambda p: save_file({'weight': torch.zeros(2, 16), 'bias': torch.zeros(2)}, p / 'head.safetensors'), ValueError,
     'not the file that mmlora.json'),
    (lambda p: (p / 'mmlora.json').write_text('{'), ValueError, 'is no JSON'),
    (lambda p: (p / 'mmlora.json').write_text('{"format": "x"}'), ValueError, "format='x'"),
    (lambda p: (p / 'adapter_config.json').unlink(), FileNotFoundError, 'it has no adapter_config.json'),
])
def test_a_damaged_folder_is_refused(backbone, tmp_path, change, error, message):
    write_lora_folder(tmp_path / 'a', drawn(backbone), record(), head())
    change(tmp_path / 'a')
    with pytest.raises(error, match=message):
        read_lora_folder(tmp_path / 'a')


@pytest.mark.parametrize('field, value, message', [
    ('peft_type', 'LOHA', "peft_type='LOHA', where a plain LoRA needs LORA"),
    ('use_dora', True, r'use_dora=True \(DoRA\), which a plain LoRA does not have'),
    ('alora_invocation_tokens', [3], r'\(activated LoRA\)'), ('bias', 'all', "bias='all', biases that learned"),
    ('init_lora_weights', 'pissa', "init_lora_weights='pissa', which changes the base weights"),
    ('r', 5, 'has factors of rank 4, the config says 5'), ('lora_alpha', None, 'must be a number'),
])
def test_what_peft_has_and_lora_is_not_is_refused(backbone, tmp_path, field, value, message):
    write_lora_folder(tmp_path / 'a', drawn(backbone, sites=SITES[:1]), {})
    (tmp_path / 'a' / 'mmlora.json').unlink()
    config = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
    (tmp_path / 'a' / 'adapter_config.json').write_text(json.dumps({**config, field: value}))
    with pytest.raises(ValueError, match=message):
        read_lora_folder(tmp_path / 'a')


def test_what_should_not_be_written_is_not(backbone, tmp_path):
    weights = drawn(backbone, sites=SITES[:1])
    bad = {key: Pair(pair.a * float('nan'), pair.b, 1.0) for key, pair in weights.items()}
    with pytest.raises(ValueError, match='not finite: the training has diverged'):
        write_lora_folder(tmp_path / 'a', bad, {})
    with pytest.raises(ValueError, match=r'got \(2, 16\) and \(3,\)'):
        write_lora_folder(tmp_path / 'a', weights, {}, Head(torch.zeros(2, 16), torch.zeros(3)))
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'thesis.txt').touch()
    with pytest.raises(ValueError, match='no folder of a LoRA and holds .*thesis.txt'):
        write_lora_folder(tmp_path / 'b', weights, {})
    assert not (tmp_path / 'a').exists()


@pytest.fixture
def folder(backbone, tmp_path):
    """Three whole members and no index."""
    for number in range(3):
        about = record(classes=[f'a{number}', 'b'], task=dict(number=number))
        write_lora_folder(tmp_path / member_name(number), drawn(backbone, seed=number), about, head(number))
    return tmp_path


def test_a_hub_is_opened_and_read(backbone, folder):
    with pytest.raises(FileNotFoundError, match='no index.json, but 3 members: go on with the command'):
        LoRAHub.open(folder)
    hub = write_index(folder, config='c.py')
    assert (len(hub), list(hub), hub.about['config']) == (3, ['00000', '00001', '00002'], 'c.py')
    assert hub.classes(1) == ['a1', 'b'] and hub.base_sha256 == 'abc' and hub.normalization['std'] == [1, 1, 1]
    assert all(same(own, drawn(backbone, seed=n)) for n, own in enumerate(hub.adapters()))
    assert same(hub.adapters(['00002'])[0], drawn(backbone, seed=2))
    assert torch.equal(hub.head('00001').bias, head(1).bias)
    hub.check_base('abc')
    with pytest.raises(ValueError, match=r'sha256 abc \(x\), those of the backbone have def'):
        hub.check_base('def')
    with pytest.raises(IndexError, match=r'members 0..2, got 3'):
        hub[3]
    with pytest.raises(KeyError, match="no member '7', it has 00000, 00001, 00002"):
        hub['7']


DISAGREE = {
    'base': (dict(base=dict(sha256='def')), {}, "the frozen weights: it has 'def', member '00000' has 'abc'"),
    'normalization': (dict(normalization=dict(mean=[9], std=[1])), {},
                      r"the preparation of images: it has {'mean': \[9\].* has {'mean': \[0, 0, 0\]"),
    'rank': ({}, dict(rank=3), "the rank: it has .*3.* member '00000' has .*2.*mixed_ranks=True"),
    'classes': (dict(classes=['a']), {}, 'names 1 classes and 2 of their numbers for a head of 2'),
    'task': (dict(task=None), {}, 'has task=None, which must be of the type dict'),
}  # yapf: disable


@pytest.mark.parametrize('about, how, message', DISAGREE.values(), ids=DISAGREE)
def test_members_that_disagree_are_refused_by_name(backbone, folder, about, how, message):
    hub = write_index(folder)
    write_lora_folder(folder / '00001', drawn(backbone, **how), record(**about), head())
    with pytest.raises(ValueError, match="member '00001'.*" + message):
        write_index(folder)
    with pytest.raises(ValueError, match="member '00001' of .* has changed since the index was written, in"):
        LoRAHub.open(folder)
    index = json.loads((folder / 'index.json').read_text())
    assert index['members'] == hub.records  # untouched by what was refused
    index['members']['00001'] = json.loads((folder / '00001' / 'mmlora.json').read_text())
    (folder / 'index.json').write_text(json.dumps(index))
    with pytest.raises(ValueError, match="member '00001'.*" + message):
        LoRAHub.open(folder)


def test_a_hub_may_say_that_ranks_differ(backbone, folder):
    write_lora_folder(folder / '00001', drawn(backbone, rank=3), record(), head())
    hub = write_index(folder, mixed_ranks=True)
    assert [hub.records[name]['rank'] for name in hub] == [2, 3, 2]


@pytest.mark.parametrize('name', ['../hub/00001', '00001/../00001', '', 'one'])
def test_members_lie_in_the_hub(folder, name):
    write_index(folder)
    index = json.loads((folder / 'index.json').read_text())
    index['members'] = {name: index['members']['00001']}
    (folder / 'index.json').write_text(json.dumps(index))
    with pytest.raises(ValueError, match='members are folders with a number of five digits or more'):
        LoRAHub.open(folder)


def test_a_member_that_is_gone_is_missed(folder):
    write_index(folder)
    (folder / '00002' / 'mmlora.json').unlink()
    with pytest.raises(FileNotFoundError, match="names the member '00002', which has no mmlora.json"):
        LoRAHub.open(folder)
    assert len(write_index(folder)) == 2


def test_other_folders_are_no_hubs(tmp_path):
    with pytest.raises(FileNotFoundError, match='the folder does not exist'):
        LoRAHub.open(tmp_path / 'none')
    (tmp_path / 'index.json').write_text('{"format": "mmlora-pool-1"}')
    with pytest.raises(ValueError, match="format='mmlora-pool-1', where 'mmlora hub 1' is expected"):
        LoRAHub.open(tmp_path)
    with pytest.raises(ValueError, match='has no member that is whole'):
        write_index(tmp_path)


def test_a_file_of_the_published_code(golden):
    folder = golden / 'lora_recycle'
    weights, own = read_published_lora(folder / 'tiny_lora_teacher_hubfile.safetensors', 'layers.{}.attn.qkv')
    wanted = np.load(folder / 'tiny_lora_teacher.npz')
    assert list(weights) == [(f'layers.{i}.attn.qkv', part) for i in range(4) for part in 'qv']
    for number, pair in enumerate(weights.values()):
        for letter, value in zip('ab', pair[:2], strict=True):
            assert np.array_equal(value.numpy(), wanted[f'w_{letter}_{number:03d}'].astype(np.float32))
        assert pair.scaling == 1.0
    assert np.array_equal(own.weight.numpy(), wanted['head_weight'].astype(np.float32)) and not own.bias.any()


@pytest.mark.parametrize('change, message', [
    (lambda t: t.pop('w_b_003'), r"belong together, got {'w_a_003': \(2, 32\)}"),
    (lambda t: (t.pop('w_a_007'), t.pop('w_b_007')), 'an even number of them'),
    (lambda t: t.update(w_c_000=torch.zeros(1)), r'holds w_c_000 of the shape \(1,\)'),
    (lambda t: t.update(fc_16in_3out=torch.zeros(3, 15)), r'holds fc_16in_3out of the shape \(3, 15\)'),
])
def test_a_file_that_is_something_else_is_refused(golden, tmp_path, change, message):
    from safetensors.torch import load_file

    tensors = load_file(golden / 'lora_recycle' / 'tiny_lora_teacher_hubfile.safetensors')
    change(tensors)
    save_file(tensors, tmp_path / 'lora_0.safetensors')
    with pytest.raises(ValueError, match=message):
        read_published_lora(tmp_path / 'lora_0.safetensors')


class Program:
    """Runs when it is unpickled in full trust."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_labels_are_read_and_never_run(tmp_path):
    path = tmp_path / 'global_label_0.pth'
    for content in ([5, 1, 7], torch.tensor([5, 1, 7]), [torch.tensor(5), 1, 7]):
        torch.save(content, path)
        assert read_published_labels(path) == [5, 1, 7]
    for content in ({'a': 1}, [], [1.5], 'abc', [True]):
        torch.save(content, path)
        with pytest.raises(ValueError, match='a list of whole numbers of classes belongs'):
            read_published_labels(path)
    for data in (pickle.dumps(Program(str(tmp_path / 'was_run'))), b'no pickle', b''):
        path.write_bytes(data)
        with pytest.raises(ValueError, match='is refused'):
            read_published_labels(path)
    torch.save([Program(str(tmp_path / 'was_run'))], path)
    with pytest.raises(ValueError, match='is refused'):
        read_published_labels(path)
    assert not (tmp_path / 'was_run').exists()
    with pytest.raises(FileNotFoundError, match='has no lora_<i>.safetensors'):
        published_members(tmp_path)
    with pytest.raises(FileNotFoundError, match='which classes the LoRA beside it tells apart'):
        read_published_labels(tmp_path / 'global_label_1.pth')
