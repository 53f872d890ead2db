"""The store of features: kills, damage, writers at the same time, and what makes a key another one."""

import multiprocessing
import os
import signal
from enum import Enum
from functools import partial

import numpy as np
import pytest
import torch

from mmlora.io.feature_keys import describe, file_state, key_of, tensors_sha256
from mmlora.io.feature_store import ABOUT, FeatureStore

SPACE = dict(weights='abc', precision='float32')


def keys(*numbers):
    return [key_of(number) for number in numbers]


def rows(*numbers, dtype=torch.float32):
    return torch.tensor([[number, number / 7, -number] for number in numbers], dtype=dtype)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_come_back_bit_for_bit(tmp_path, dtype):
    store = FeatureStore(SPACE, tmp_path, shard_size=2)
    numbers = list(range(5))
    store.add(keys(*numbers), rows(*numbers, dtype=dtype))
    assert len(store) == 5 and len(list(store.folder.glob('*.safetensors'))) == 2  # the fifth row waits
    store.flush()
    for again in (store, FeatureStore(SPACE, tmp_path)):
        got = again.get(keys(3, 0, 4, 0))
        assert got.dtype == dtype and torch.equal(got, rows(3, 0, 4, 0, dtype=dtype))
        assert key_of(2) in again and key_of(5) not in again
    assert '"abc"' in (store.folder / ABOUT).read_text()
    with pytest.raises(KeyError):
        store.get(keys(5))


def test_spaces_are_apart(tmp_path):
    store = FeatureStore(SPACE, tmp_path)
    store.add(keys(1), rows(1))
    store.flush()
    for other in (dict(SPACE, weights='abd'), dict(SPACE, precision='bfloat16'), dict(SPACE, more=None)):
        assert key_of(1) not in FeatureStore(other, tmp_path)
    assert key_of(1) in FeatureStore(dict(reversed(SPACE.items())), tmp_path)


@pytest.mark.parametrize('damage', ['cut', 'bit', 'empty', 'other'])
def test_a_damaged_shard_is_named_and_only_it_is_lost(tmp_path, damage, monkeypatch):
    said = []
    monkeypatch.setattr('mmlora.io.feature_store.print_log', lambda text, **options: said.append(text))
    store = FeatureStore(SPACE, tmp_path, shard_size=2)
    store.add(keys(0, 1), rows(0, 1))
    (path,) = store.folder.glob('*.safetensors')
    store.add(keys(2, 3), rows(2, 3))
    data = bytearray(path.read_bytes())
    if damage == 'bit':
        data[-3] ^= 1
    other = data.replace(b'features 1', b'features 9')
    path.write_bytes({'cut': data[:-5], 'bit': data, 'empty': b'', 'other': other}[damage])
    again = FeatureStore(SPACE, tmp_path, shard_size=2)
    assert len(said) == 1 and str(path) in said[0]
    assert [key in again for key in keys(0, 1, 2, 3)] == [False, False, True, True]
    again.add(keys(0, 1), rows(0, 1))
    assert torch.equal(FeatureStore(SPACE, tmp_path).get(keys(0, 1, 2, 3)), rows(0, 1, 2, 3))


def _write(folder, first, killed):
    store = FeatureStore(SPACE, folder, shard_size=3)
    for number in range(first, first + 10):
        if number == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        store.add(keys(number), rows(number))
    store.flush()


def test_a_kill_loses_less_than_a_shard_and_writers_do_not_meet(tmp_path):
    context = multiprocessing.get_context('fork')
    writers = [context.Process(target=_write, args=(tmp_path, first, 8)) for first in (0, 20, 24)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [-9, 0, 0]
    store = FeatureStore(SPACE, tmp_path)
    found = [number for number in range(40) if key_of(number) in store]
    assert found == [*range(6), *range(20, 34)]  # two shards of the one that was killed, all of those that overlap
    assert torch.equal(store.get(keys(*found)), rows(*found))


def test_refresh_sees_what_others_have_written(tmp_path):
    first, second = FeatureStore(SPACE, tmp_path), FeatureStore(SPACE, tmp_path)
    first.add(keys(1, 2), rows(1, 2))
    first.flush()
    assert key_of(1) not in second
    second.refresh()
    assert torch.equal(second.get(keys(2, 1)), rows(2, 1))


def test_what_is_wrong_is_refused(tmp_path):
    for size in (0, True, 1.5):
        with pytest.raises(ValueError, match='shard_size'):
            FeatureStore(SPACE, tmp_path, shard_size=size)
    store = FeatureStore(SPACE, tmp_path)
    for names, values in ((keys(1), rows(1, 2)), (['ab'], rows(1)), (keys(1), torch.zeros(3))):
        with pytest.raises(ValueError, match='keys'):
            store.add(names, values)
    with pytest.raises(ValueError, match='at least one key'):
        store.get([])


class Thing:
    def __init__(self, size, inner=None):
        self.size, self.inner, self._hidden = size, inner, object()


class Other(Thing):
    pass


class Color(Enum):
    RED = 'red'
    BLUE = 'blue'


DIFFERENT = [
    None, 1, 1.5, '1', True, [1, 2], [2, 1], {'a': 1}, {'a': 2}, Thing(1), Thing(2), Thing(1, Thing(2)), Other(1),
    Color.RED, Color.BLUE, partial(int, base=2), partial(int, base=3), partial(int, 2),
    Thing, np.zeros(3), np.zeros(3, dtype=np.float32), np.zeros((3, 1)), torch.ones(3), torch.float32, torch.float64,
]  # fmt: skip


def test_keys_differ_where_the_things_do():
    assert len({key_of(thing) for thing in DIFFERENT}) == len(DIFFERENT)
    assert key_of(Thing(1, {'x', 'y'})) == key_of(Thing(1, {'y', 'x'}))
    assert key_of(dict(a=1, b=2)) == key_of(dict(b=2, a=1))
    assert describe((1, np.int64(2))) == [1, 2]
    with pytest.raises(ValueError, match='no key can be made of slice'):
        key_of(Thing(slice(3)))
    thing = Thing(1)
    thing.inner = thing
    with pytest.raises(ValueError, match='Thing contains itself'):
        key_of(thing)


def test_every_bit_of_the_weights_counts():
    base = torch.arange(6.0)
    variants = [base, base.double(), base.view(2, 3), base.neg(), torch.nextafter(base, base + 1)]
    hashes = {tensors_sha256([('w', tensor)]) for tensor in variants} | {tensors_sha256([('v', base)])}
    assert len(hashes) == 6 and tensors_sha256([('w', base.clone())]) in hashes
    assert tensors_sha256([('w', torch.tensor(1.0))]) != tensors_sha256([('w', torch.tensor([1.0]))])


def test_a_file_that_was_touched_is_another(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'123')
    os.utime(path, ns=(1, 1))
    before = file_state(path)
    assert before == [os.path.realpath(path), 3, 1]
    (tmp_path / 'link.png').symlink_to(path)
    assert file_state(tmp_path / 'link.png') == before
    os.utime(path, ns=(1, 2))
    assert file_state(path) != before
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        file_state(tmp_path / 'gone.png')
