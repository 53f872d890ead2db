"""Read the tensors of a TorchScript archive, such as OpenAI's CLIP ``.pt``, without running what it holds.

The archive is a zip file: ``code/`` is a program and is never read; ``data.pkl`` describes the modules and their
tensors, whose bytes are in ``data/``. The description is read by an unpickler that knows a closed list of names: the
archive's own classes become empty records, a tensor is a view of its bytes, and anything else is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    'BoolStorage': torch.bool, 'ByteStorage': torch.uint8, 'CharStorage': torch.int8, 'ShortStorage': torch.int16,
    'IntStorage': torch.int32, 'LongStorage': torch.int64, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'FloatStorage': torch.float32, 'DoubleStorage': torch.float64,
}  # fmt: skip


class ScriptError(ValueError):
    """The archive holds more than modules and tensors."""


class _Record:
    """An object of the archive: its attributes, none of its methods."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ScriptError(f'an object whose state is a {type(state).__name__}')
        self.__dict__.update(state)


class _Function:
    """A function of the closed list: an archive may call it, and not set its attributes, which all archives share."""

    __slots__ = ('_function',)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise ScriptError('a change of a function')


def is_torchscript(path: Path) -> bool:
    """Return whether a zip file is a TorchScript archive: one with a program beside its data."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition('/')[2] for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return False
    return 'data.pkl' in names and any(name.startswith('code/') or name == 'constants.pkl' for name in names)


def read_torchscript(path: Path, device: str | torch.device = 'cpu') -> dict[str, Tensor]:
    """Return the tensors of the modules in an archive by their names, those of attributes included.

    Args:
        path: The archive.
        device: Where the tensors go.

    Raises:
        ScriptError: The archive holds objects beyond modules, lists and tensors.
        ValueError: It is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith('/data.pkl')).removesuffix('data.pkl')
        order = f'{root}byteorder'
        if order in archive.namelist() and archive.read(order) != b'little':
            raise ScriptError('numbers of another byte order than little')
        with archive.open(f'{root}data.pkl') as file:
            content = _Unpickler(file, archive, f'{root}data/').load()
    tensors: dict[str, Tensor] = {}
    _collect(content, '', tensors)
    return {name: tensor.to(device) for name, tensor in tensors.items()}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == '__torch__' or module.startswith('__torch__.'):
            return _Record
        known = _KNOWN.get(f'{module}.{name}')
        if known is None:
            raise ScriptError(f'{module}.{name}')
        return known

    def persistent_load(self, saved: Any) -> Tensor:
        """Return the numbers of a storage as a flat tensor; ``saved`` is ('storage', type, key, device, count)."""
        _, dtype, key, _, count = saved
        if key not in self._storages:
            data = bytearray(self._archive.read(f'{self._folder}{key}'))
            if not isinstance(dtype, torch.dtype) or len(data) < count * dtype.itemsize:
                raise ValueError(f'the storage {key} has {len(data)} bytes')
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)  # It checks that the view lies within the storage.


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


_KNOWN: dict[str, Any] = {
    'collections.OrderedDict': OrderedDict,
    'torch._utils._rebuild_tensor_v2': _Function(_tensor),
    'torch._utils._rebuild_parameter': _Function(_parameter),
    'torch.jit._pickle.build_intlist': list,
    'torch.jit._pickle.build_doublelist': list,
    'torch.jit._pickle.build_boollist': list,
    'torch.jit._pickle.build_tensorlist': list,
    'torch.jit._pickle.restore_type_tag': _Function(lambda value, type_name: value),
    **{f'torch.{name}': dtype for name, dtype in _TYPES.items()},
}


def _collect(value: Any, name: str, out: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        out[name] = value.clone()
        return
    items = value.__dict__.items() if isinstance(value, _Record) else value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        _collect(inner, f'{name}.{key}' if name else str(key), out)
