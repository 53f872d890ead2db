"""Folders of LoRAs that are merged: their heads, what they say of the frozen weights, and what is refused."""

import pytest
import tiny
import torch
from merge_cases import lora

from mmlora.adapters import merge_lora
from mmlora.apis import merge_adapter_folders
from mmlora.io.kind_folder import write_kind_folder
from mmlora.io.lora_folder import Head, read_lora_folder, write_lora_folder

HEAD = Head(torch.arange(10.0).reshape(2, 5), torch.ones(2))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a folder and return its path."""
    monkeypatch.setattr('os.fsync', lambda descriptor: None)

    def write(name, seed=0, head=None, base='same', **record):
        base = {} if base is None else dict(base=dict(sha256=base, name='vit.pth'))
        return write_lora_folder(tmp_path / name, lora(seed, dtype=torch.float32), dict(record, **base), head)

    return write


@pytest.mark.parametrize('heads, kept', [
    ((HEAD, HEAD), True), ((HEAD,), True), ((HEAD, None), False), ((None, HEAD), False), ((None, None), False),
    ((HEAD, Head(HEAD.weight + 1, HEAD.bias)), False), ((HEAD, Head(HEAD.weight[:1], HEAD.bias[:1])), False),
])
def test_the_head_that_all_share_stays(write, tmp_path, heads, kept):
    sources = [write(f'{seed}', seed, head, classes=['cat', 'dog']) for seed, head in enumerate(heads)]
    found = read_lora_folder(merge_adapter_folders(sources, tmp_path / 'out', 'sum'))
    assert (found.head is not None) == kept and found.record['classes'] == (['cat', 'dog'] if kept else None)
    assert not kept or all(map(torch.equal, found.head, HEAD))
    assert ('It has no head' in (tmp_path / 'out' / 'README.md').read_text()) != kept


def test_a_folder_that_does_not_say_its_base_goes_with_others(write, tmp_path):
    norm = dict(mean=[1.0], std=[2.0], to_rgb=True)
    sources = [write('silent', 0, base=None), write('says', 1, normalization=norm), write('too', 2, normalization=norm)]
    record = read_lora_folder(merge_adapter_folders(sources, tmp_path / 'out')).record
    assert record['base'] == dict(sha256='same', name='vit.pth') and record['normalization'] == norm
    with pytest.raises(ValueError, match=r"other differs in the frozen weights: it has 'other', .*says has 'same'"):
        merge_adapter_folders([*sources, write('other', 3, base='other')], tmp_path / 'out')
    with pytest.raises(ValueError, match='prepared differs in the preparation of images'):
        other = write('prepared', 3, normalization={**norm, 'to_rgb': False})
        merge_adapter_folders([*sources, other], tmp_path / 'out')


def test_what_is_refused(write, tmp_path):
    one = write('one')
    adaptation = dict(kind='DoRA', options={}, frozen=True)
    dora = write_kind_folder(tmp_path / 'dora', {'qkv.lora_A': torch.ones(2, 2)},
                             dict(adaptation=adaptation, rank_table=None, base={}), None, '')
    for sources, error, message in (
        ([one, dora], ValueError, 'dora is DoRA: the changes of LoRAs alone add up'),
        ([], ValueError, 'there is no LoRA to merge'),
        ([one, tmp_path / 'none'], FileNotFoundError, 'does not exist'),
        ([tmp_path / 'out'], ValueError, 'would be overwritten'),
    ):
        write('out')
        with pytest.raises(error, match=message):
            merge_adapter_folders(sources, tmp_path / 'out')


def test_the_tool_knows_the_names_of_peft(write, tmp_path, capsys):
    sources, out = [write('a', 0), write('b', 1)], tmp_path / 'out'
    assert tiny.call_tool('merge_adapters', *sources, '--method', 'dare_linear', '--density', 0.5, '--out', out) == 0
    found, members = read_lora_folder(out), [read_lora_folder(path).weights for path in sources]
    assert (found.record['merged']['method'], found.record['merged']['seed']) == ('dare', 0)
    for key, pair in merge_lora(members, 'dare', density=0.5).items():
        assert torch.equal(found.weights[key].a, pair.a) and torch.equal(found.weights[key].b, pair.b)
    with pytest.raises(SystemExit):
        tiny.call_tool('merge_adapters', *sources, '--method', 'magnitude', '--out', out)
    assert "invalid choice: 'magnitude'" in capsys.readouterr().err
