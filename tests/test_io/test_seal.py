"""The seal of a checkpoint: what it finds, that readers pass over it, and what has none."""

import io
import os
import re
import zipfile

import pytest
import torch

from mmlora.io.reader import read_checkpoint
from mmlora.io.seal import check_seal, write_sealed


def archive(value=0):
    file = io.BytesIO()
    torch.save({'a': torch.full((400,), value, dtype=torch.float64), 'meta': dict(epoch=value)}, file)
    return file.getvalue()


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / 'epoch_2.pth'
    write_sealed(path, archive(2))
    return path


def test_readers_pass_over_the_seal(sealed):
    assert check_seal(sealed)
    for mmap in (False, True):
        assert torch.load(sealed, weights_only=True, mmap=mmap)['a'].sum() == 800
        assert read_checkpoint(sealed, mmap=mmap)['meta'] == dict(epoch=2)
    with zipfile.ZipFile(sealed) as file:
        assert re.fullmatch(rb'mmlora sha256 [0-9a-f]{64}', file.comment) and file.testzip() is None


def test_each_wrong_bit_and_each_cut_is_found(sealed):
    whole = sealed.read_bytes()
    for place in [*range(0, len(whole), 97), *range(len(whole) - 100, len(whole))]:
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << place % 8
        sealed.write_bytes(spoiled)
        with pytest.raises(ValueError, match=re.escape(str(sealed))):
            read_checkpoint(sealed)
    for length in [*range(1, len(whole), 211), *range(len(whole) - 100, len(whole))]:
        sealed.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(sealed))):
            read_checkpoint(sealed)


@pytest.mark.parametrize('more', [1, 50, 200, 4096, 65000])
def test_bytes_behind_the_seal_do_not_hide_it(sealed, more):
    spoiled = bytearray(sealed.read_bytes())
    written = spoiled[-64:].decode()
    spoiled[spoiled.index(torch.full((1,), 2.0, dtype=torch.float64).numpy().tobytes())] ^= 1
    sealed.write_bytes(spoiled + bytes(more))
    with pytest.raises(ValueError, match=f'is damaged.*written with {written}'):
        read_checkpoint(sealed)


def test_what_stands_in_the_place_of_a_seal_is_not_printed(tmp_path):
    (tmp_path / 'x.pth').write_bytes(bytes(200) + b'mmlora sha256 ' + b'\x1b[2J\x1b]0;owned\x07'.ljust(64, b'A'))
    with pytest.raises(ValueError, match='written with an unreadable seal') as caught:
        check_seal(tmp_path / 'x.pth')
    assert str(caught.value).isprintable()


def test_torch_alone_would_not_find_it(sealed):
    # Otherwise there were no need for a seal.
    spoiled = bytearray(sealed.read_bytes())
    spoiled[spoiled.index(torch.full((1,), 2.0, dtype=torch.float64).numpy().tobytes())] ^= 1
    sealed.write_bytes(spoiled)
    torch.load(sealed, weights_only=True)


def test_the_error_names_both_hashes_and_the_newest_good_file(sealed, tmp_path):
    for number, name in enumerate(('epoch_0.pth', 'epoch_1.pth', 'spoiled.pth')):
        write_sealed(tmp_path / name, archive(number))
        os.utime(tmp_path / name, (number, number))
    (tmp_path / 'no_seal.pth').write_bytes(archive(3))
    for path in (sealed, tmp_path / 'spoiled.pth'):
        spoiled = bytearray(path.read_bytes())
        spoiled[100] ^= 1
        path.write_bytes(spoiled)
    written = sealed.read_bytes()[-64:].decode()
    words = rf'epoch_2.pth is damaged.*is [0-9a-f]{{64}}, .*{written}.*beside it is .*epoch_1.pth'
    with pytest.raises(ValueError, match=words):
        check_seal(sealed)


@pytest.mark.parametrize('content', [archive(1), b'', b'x', b'PK\x05\x06' + bytes(18), bytes(200)])
def test_other_files_have_none(tmp_path, content):
    path = tmp_path / 'x.pth'
    path.write_bytes(content)
    assert not check_seal(path)


def test_what_is_no_archive_is_written_as_it_is(tmp_path):
    write_sealed(tmp_path / 'x', b'text')
    assert (tmp_path / 'x').read_bytes() == b'text'
