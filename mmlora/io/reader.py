"""One safe reader for checkpoint files: safetensors, ``.npz``, ``.pth`` and TorchScript, told apart by content.

No file is ever trusted: ``.npz`` is read without pickle, ``.pth`` with ``weights_only=True`` only, and of a TorchScript
archive only the tensors. Whatever is wrong with a file, the error names the file and says what it looks like.
"""

import difflib
import io
import os
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from .legacy import CLOSED_LIST, RefusedError, closed_list, resolve, stand_in_values
from .limits import check_content, check_packed
from .seal import check_seal
from .torchscript import ScriptError, is_torchscript, read_torchscript

MapLocation = str | torch.device | dict | Callable | None

# What the readers of torch, numpy and zip raise on bytes that make no sense to them.
_DAMAGE: tuple[type[BaseException], ...] = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error)

_PICKLES = 4  # The old format is four pickles in a row (magic number, version, system, content), then raw tensors.
_PLAIN_NAMES = ('torch.', 'collections.', '_codecs.encode', 'builtins.set', 'builtins.bytearray', 'builtins.complex')

_LOOKS_LIKE = (
    (rb'version https://git-lfs', 'a Git LFS pointer: fetch the file itself with `git lfs pull`'),
    (rb'\s*(<!doctype|<html|<\?xml)', 'a web page: the download was answered with an error or a login page'),
    (rb'\x89PNG', 'a PNG image'),
    (rb'\xff\xd8\xff', 'a JPEG image'),
    (rb'\x1f\x8b', 'a gzip archive: unpack it first'),
    (rb'(\x89HDF)', 'an HDF5 file'),
)


def read_checkpoint(path: str | os.PathLike, map_location: MapLocation = 'cpu', mmap: bool = False) -> dict:
    """Read a checkpoint file of any known format without trusting it.

    Args:
        path: A local file.
        map_location: As for ``torch.load``; None reads to the CPU. Callables and dicts apply to ``.pth`` only.
        mmap: Map tensors of a ``.pth`` or safetensors file instead of reading them: saves memory and time where only
            some are looked at. The file must not be overwritten in place while they are in use.

    Returns:
        The dict that the file holds; safetensors and ``.npz`` give ``{name: tensor}``.

    Raises:
        FileNotFoundError: There is no such file; near misses are named.
        ValueError: The file is a folder, empty, damaged, other than its seal says, no checkpoint, holds more than
            plain data, or claims to be far larger than it is.
    """
    path = _existing(path)
    with open(path, 'rb') as file:
        head = file.read(512)
    if not head:
        raise ValueError(f'{path} is empty: the program that wrote it was probably stopped; use an earlier checkpoint')
    check_seal(path)
    if head.startswith(b'PK'):
        _check_packed(path)
    if path.suffix == '.safetensors' or _is_safetensors(head, path.stat().st_size):
        content = _read_safetensors(path, map_location, mmap)
    elif head.startswith(b'PK\x03\x04') and _is_npz(path):
        content = _read_npz(path, map_location)
    elif head.startswith(b'PK\x03\x04') and is_torchscript(path):
        content = _read_script(path, map_location)
    elif head.startswith((b'PK\x03\x04', b'\x80')):
        content = _read_torch(path, map_location or 'cpu', mmap and head.startswith(b'PK'))
    else:
        raise ValueError(f'{path} is not a checkpoint: it looks like {_guess(head)}. Known formats are .pth (of '
                         'torch.save), .safetensors and .npz')
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not the dict of a checkpoint')
    return content


def _existing(path: str | os.PathLike) -> Path:
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(entry.name for entry in path.iterdir() if entry.suffix in ('.pth', '.safetensors', '.npz'))
        inside = f'one of the files inside: {", ".join(files[:8])}' if files else 'a file; this folder has none'
        raise ValueError(f'{path} is a folder, not a checkpoint: name {inside}')
    if not path.is_file():
        raise FileNotFoundError(f'{path} can not be found{_near_misses(path)}')
    return path


def _near_misses(path: Path) -> str:
    if not path.parent.is_dir():
        return f': there is no folder {path.parent}'
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    close = difflib.get_close_matches(path.name, names, n=3)
    return f'; did you mean {" or ".join(close)}?' if close else f' in {path.parent.resolve()}'


def _guess(head: bytes) -> str:
    for pattern, name in _LOOKS_LIKE:
        if re.match(pattern, head, re.IGNORECASE):
            return name
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return 'binary data of no known kind, or a damaged file'
    return f'text, beginning with {text[:40]!r}'


def _damaged(path: Path, error: BaseException) -> ValueError:
    reason = (str(error).strip().splitlines() or [''])[0][:200]
    return ValueError(f'{path} is damaged or cut off ({type(error).__name__}: {reason}): copy or download it again, '
                      'or use an earlier checkpoint')


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b'{' and int.from_bytes(head[:8], 'little') + 8 <= size


def _check_packed(path: Path) -> None:
    try:
        check_packed(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from error


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return any(name.endswith('.npy') for name in names) and not any(name.endswith('data.pkl') for name in names)


def _place(tensor: torch.Tensor, map_location: MapLocation) -> torch.Tensor:
    return tensor.to(map_location) if isinstance(map_location, str | torch.device) else tensor


def _read_safetensors(path: Path, map_location: MapLocation, mmap: bool) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework='pt') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            # get_tensor maps the file; a copy survives when the file is overwritten in place.
            return {name: _place(tensor if mmap else tensor.clone(), map_location) for name, tensor in tensors.items()}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_npz(path: Path, map_location: MapLocation) -> dict[str, torch.Tensor]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except _DAMAGE as error:
        if 'allow_pickle' in str(error) or 'Object arrays' in str(error):
            raise ValueError(f'{path} is refused: it holds Python objects, not only arrays of numbers') from error
        raise _damaged(path, error) from error
    return {name: _place(_from_numpy(array, f'{name!r} in {path}'), map_location) for name, array in arrays.items()}


def _from_numpy(array: np.ndarray, what: str) -> torch.Tensor:
    if array.dtype == np.dtype('V2'):  # bfloat16, which numpy stores as two bytes without a type.
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in 'biufc':
        raise ValueError(f'{what} is an array of {array.dtype}, not of numbers')
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder('=')).reshape(array.shape))


def _read_script(path: Path, map_location: MapLocation) -> dict[str, torch.Tensor]:
    """Read the tensors of a TorchScript archive; its program is never looked at."""
    try:
        tensors = read_torchscript(path)
        check_content(tensors, path)
        return {name: _place(tensor, map_location) for name, tensor in tensors.items()}
    except ScriptError as error:
        raise _refused(path, [f'a TorchScript program with {error}']) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, map_location: MapLocation, mmap: bool) -> Any:
    with closed_list():
        try:
            unsafe = _unsafe_names(path)
            if not unsafe:
                found = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except RefusedError as error:
            raise _refused(path, [str(error)]) from error
        except _DAMAGE as error:
            unsafe = _pickled_names(path)
            if not unsafe:
                raise _damaged(path, error) from error
        if unsafe:
            raise _refused(path, unsafe)
        check_content(found, path, stand_in_values)
        try:
            return resolve(found)
        except RefusedError as error:
            raise _refused(path, [str(error)]) from error
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _refused(path: Path, unsafe: list[str]) -> ValueError:
    return ValueError(
        f'{path} is refused: beyond plain data it holds {", ".join(unsafe)}, and reading such objects can run code '
        'that the file brings. If you trust its origin, save its weights alone with the program that wrote it '
        '(torch.save of a dict of tensors), or allow these types before loading with '
        'torch.serialization.add_safe_globals')


def _unsafe_names(path: Path) -> list[str]:
    """List what a zipped ``.pth`` would import beyond plain data and the closed list; nothing is run."""
    if not zipfile.is_zipfile(path):
        return []  # The format before torch 1.6, which torch does not list: torch.load refuses while it reads.
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except ValueError as error:
        if 'torchscript' in str(error).lower():
            raise RefusedError('a TorchScript program (run it with torch.jit.load where you trust it and save its '
                               'state_dict())') from error
        raise


def _pickled_names(path: Path) -> list[str]:
    """List the imports of a pickle that torch gave up on, for the message only: any protocol, nothing is run."""
    names: set[str] = set()
    strings: list[str] = []
    try:
        with _open_pickle(path) as stream:
            for _ in range(_PICKLES):
                for operation, argument, _position in pickletools.genops(stream):
                    if operation.name == 'GLOBAL':
                        names.add(argument.replace(' ', '.').replace('__builtin__', 'builtins'))
                    elif operation.name == 'STACK_GLOBAL':
                        names.add('.'.join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
    except _DAMAGE:
        pass  # The pickles end where the bytes of the tensors begin, or where the file is damaged.
    return sorted(name for name in names if name not in CLOSED_LIST and not name.startswith(_PLAIN_NAMES))


def _open_pickle(path: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return open(path, 'rb')
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(archive.read([name for name in archive.namelist() if name.endswith('data.pkl')][0]))
