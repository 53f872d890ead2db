"""Checkpoints and other binary files that want to run code, claim to be what they are not, or are damaged."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from attacks import NAMED_EARLY, PICKLES, WEIGHTS, Attack, Runs, file_of, poisoned, saved
from safetensors.torch import save

import mmlora  # noqa: F401  (installs the loaders)
from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.clip_lora_file import read_published_lora as read_clip_lora
from mmlora.io.published_banks import read_published_checkpoint, read_published_task_vector
from mmlora.io.published_hub import read_published_labels, read_published_lora


def _npz(marker: Path) -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.array([Runs(os.mkdir, str(marker))], dtype=object))
    return file.getvalue()


def _script(data: bytes | Callable[[Path], bytes]) -> Callable[[Path, Path], Path]:
    """A TorchScript archive with a description of one's own."""
    def build(folder: Path, marker: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / 'bad.pt', 'w') as archive:
            archive.writestr('net/data.pkl', data(marker) if callable(data) else data)
            archive.writestr('net/data/0', bytes(8))
            archive.writestr('net/code/net.py', 'raise SystemExit')
        return folder / 'bad.pt'

    return build


SCRIPTS = {
    'code': (lambda marker: pickle.dumps({'a': Runs(os.mkdir, str(marker))}, protocol=2),
             'refused: .*(posix|nt).mkdir'),
    'getattr': (b'\x80\x02cbuiltins\ngetattr\n.', 'refused: .*builtins.getattr'),
    'function state': (b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.',
                       'refused: .*a change of a function'),
    'record state': (b'\x80\x02c__torch__.Net\nNet\n)\x81K\x05b.', 'whose state is a int'),
    'beyond the bytes': (
        b'\x80\x02}(X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n'
        b'FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00(K\x64t(K\x01t\x89ccollections\n'
        b'OrderedDict\n)RtRu.', 'damaged or cut off.*out of bounds'),
}


def pickles() -> Iterator[Attack]:
    kind = 'pickle in a checkpoint'
    for name, (_, names) in PICKLES.items():
        for zipped in (True, False):
            build = file_of('bad.pth', lambda marker, name=name, zipped=zipped: saved(
                poisoned(name, marker), _use_new_zipfile_serialization=zipped))
            yield Attack(kind, f'{name}, {"zip" if zipped else "old"}', build, load_checkpoint,
                         f'refused.*{names}.*save its weights alone')
    for name in NAMED_EARLY:
        build = file_of('bad.pth', lambda marker, name=name: pickle.dumps(poisoned(name, marker), 4))
        yield Attack(kind, f'{name}, protocol 4', build, load_checkpoint,
                     f'refused.*{PICKLES[name][1]}.*save its weights alone')
    build = file_of('bad.pth', lambda marker: saved(
        {'state_dict': {}, 'optimizer': {'state': {0: {'step': Runs(os.mkdir, str(marker))}}, 'param_groups': []}}))
    yield Attack(kind, 'optimizer state', build, load_checkpoint, 'refused.*mkdir')
    for name, (data, says) in SCRIPTS.items():
        yield Attack(kind, f'TorchScript, {name}', _script(data), load_checkpoint, says)
    yield Attack(kind, 'npz of objects', file_of('bad.npz', _npz), load_checkpoint, 'refused: it holds Python objects')
    kind = 'pickle in another file'
    forms = {'saved': lambda marker: saved([Runs(os.mkdir, str(marker))]),
             'old': lambda marker: saved([Runs(os.mkdir, str(marker))], _use_new_zipfile_serialization=False),
             'bare': lambda marker: pickle.dumps(Runs(os.mkdir, str(marker)))}
    readers = {'global_label_0.pth': read_published_labels, 'hidden_state.pth': read_published_task_vector,
               'normalized_a_0.pth': read_published_checkpoint, 'lora_weights.pt': read_clip_lora,
               'lora_0.safetensors': read_published_lora}
    for file, read in readers.items():
        for form, content in forms.items():
            yield Attack(kind, f'{file}, {form}', file_of(file, content), read, 'is refused|is damaged')


# --- files that claim to be more than they are -----------------------------------------------------------------------

def _nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def _laughs(_: Path) -> bytes:
    value: list = ['ha']
    for _ in range(45):
        value = [value, value]
    return saved({'state_dict': {}, 'meta': value})


def _cycle(_: Path) -> bytes:
    value: dict = {}
    value['meta'] = value
    return saved({'state_dict': {}, 'meta': value})


def _bomb(_: Path) -> bytes:
    """A checkpoint whose description is followed by zeros, which weigh nothing when they are packed."""
    file = io.BytesIO()
    packed = zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1)
    with zipfile.ZipFile(io.BytesIO(saved(dict(WEIGHTS)))) as old, packed as new:
        for item in old.infolist():
            more = bytes(80 * 2**20) if item.filename.endswith('data.pkl') else b''
            new.writestr(item.filename, old.read(item) + more)
    return file.getvalue()


def _tar(first: str) -> bytes:
    """What old versions of torch wrote, and unpacked into a folder before they looked at it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', format=tarfile.GNU_FORMAT) as archive:
        for name in (first, '../ran', 'storages', 'tensors', 'pickle'):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b'abcd'))
        link = tarfile.TarInfo('link')
        link.type, link.linkname = tarfile.SYMTYPE, '../..'
        archive.addfile(link)
    return file.getvalue()


def _zip_outside(marker: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('../ran/data.pkl', pickle.dumps({'a': Runs(os.mkdir, str(marker))}, 2))
        archive.writestr(str(marker), 'x')
        link = zipfile.ZipInfo('link')
        link.external_attr = 0o120777 << 16
        archive.writestr(link, '../..')
    return file.getvalue()


def archives() -> Iterator[Attack]:
    wide = torch.zeros(1).expand(10**12)
    labels = torch.zeros(1, dtype=torch.long).expand(10**9)
    rows = {
        'lists within lists, 150 deep': (lambda _: saved({'meta': _nested(150)}), load_checkpoint, 'deeper than 100'),
        'lists that repeat, 2^45': (_laughs, load_checkpoint, 'by naming some of them many times'),
        'a dict within itself': (_cycle, load_checkpoint, 'deeper than 100 levels'),
        'a number as 4 TB': (lambda _: saved({'state_dict': {'a': wide}}), load_checkpoint, 'come to 4000000000000 by'),
        'a number as 8 GB of labels': (lambda _: saved(labels), read_published_labels, 'come to 8000000000 bytes'),
        'a number as a task vector': (lambda _: saved(wide), read_published_task_vector, 'come to 4000000000000 by'),
        'zip of zeros': (_bomb, load_checkpoint, 'unpacks to .* bytes, and has'),
        'tar': (_tar('sys_info'), load_checkpoint, 'is not a checkpoint'),
        'tar that begins as a pickle': (_tar('\udc80info'), load_checkpoint, 'damaged or cut off.*tar'),
        'tar as labels': (_tar('sys_info'), read_published_labels, 'is refused'),
        'zip with .. and a link': (_zip_outside, load_checkpoint, 'is refused|is damaged'),
    }
    for name, (content, read, says) in rows.items():
        file = 'global_label_0.pth' if read is read_published_labels else 'bad.pth'
        yield Attack('archive or pickle that grows', name, file_of(file, content), read, says)


def _header(text: str, data: bytes = bytes(8), length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, 'little') + text.encode() + data


def safetensors() -> Iterator[Attack]:
    whole = save(WEIGHTS)
    length = int.from_bytes(whole[:8], 'little')
    entry = '{"a":{"dtype":"%s","shape":[%s],"data_offsets":[%s]}}'
    rows = {
        'header of 2^62 bytes': (2**62).to_bytes(8, 'little') + whole[8:],
        'header longer than the file': (length + 10**6).to_bytes(8, 'little') + whole[8:],
        'header of 0 bytes': _header('', length=0),
        'header nested deep': _header('[' * 10_000),
        'header cut': whole[: length // 2],
        'data cut': whole[:-1],
        'data too long': whole + b'x',
        'offsets beyond the end': _header(entry % ('F32', '2', '0,80')),
        'offsets backwards': _header(entry % ('F32', '2', '8,0')),
        'negative offset': _header(entry % ('F32', '2', '-8,0')),
        'shape that overflows': _header(entry % ('F32', f'{2**62},{2**62}', '0,8')),
        'shape larger than the data': _header(entry % ('F32', '1000000000', '0,8')),
        'unknown type': _header(entry % ('PY_OBJECT', '2', '0,8')),
        'pickle': pickle.dumps({'a': 1}, 2) + bytes(99),
        'not UTF-8': (9).to_bytes(8, 'little') + b'{"\xff\xfe":1}' + bytes(9),
    }
    for name, content in rows.items():
        yield Attack('damaged safetensors', name, file_of('a.safetensors', content), load_checkpoint,
                     'damaged or cut off')
    for bit in range(0, 8 * length, 61):
        flipped = bytearray(whole)
        flipped[8 + bit // 8] ^= 1 << bit % 8
        if _unreadable(flipped):
            yield Attack('damaged safetensors', f'bit {bit} of the header', file_of('a.safetensors', bytes(flipped)),
                         load_checkpoint, 'damaged or cut off')


def _unreadable(content: bytearray) -> bool:
    """Whether safetensors itself refuses it: a name or a type may also become another valid one."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        load(bytes(content))
    except SafetensorError:
        return True
    return False


