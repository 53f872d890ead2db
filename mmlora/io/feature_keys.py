"""What a stored feature depends on, as short hashes: of weights, of settings, of files."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEY_LENGTH = 32
"""Characters of a key: 128 bits in hexadecimal digits."""


def key_of(*parts: Any) -> str:
    """Return the key of anything that :func:`describe` understands."""
    text = json.dumps([describe(part) for part in parts], sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def describe(value: Any) -> Any:
    """Return plain data that is equal where the values are: what an object is made of, never where it lies in memory.

    Arrays become hashes of their content; objects their class and their public attributes.

    Raises:
        ValueError: An object contains itself, or does not say what it is made of.
    """
    try:
        return _describe(value)
    except RecursionError as error:
        raise ValueError(f'{type(value).__name__} contains itself, so that no key can be made of it') from error


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (os.PathLike, torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, (np.ndarray, Tensor)):
        return ['array', tensors_sha256([('', torch.as_tensor(value))])]
    if isinstance(value, partial):
        return ['partial', _describe(value.func), _describe(value.args), _describe(value.keywords)]
    if isinstance(value, Mapping):
        return {str(key): _describe(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_describe(item) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    named = value if hasattr(value, '__qualname__') else type(value)
    name = f'{named.__module__}.{named.__qualname__}'
    if named is value:
        return name
    if isinstance(value, Enum):  # whose attributes are all private
        return [name, value.name]
    if not hasattr(value, '__dict__'):
        raise ValueError(f'no key can be made of {value!r} ({name}), which has no attributes')
    return {name: {key: _describe(item) for key, item in vars(value).items() if not key.startswith('_')}}


def tensors_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash of named tensors: names, types, shapes and every bit."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)};'.encode())
        data = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(data.view(torch.uint8).numpy()))
    return digest.hexdigest()


def file_state(path: str | os.PathLike) -> list[str | int]:
    """Return what changes when a file is replaced or touched: path without links, size, time of change in ns.

    Raises:
        FileNotFoundError: There is no such file on this machine.
    """
    try:
        about = os.stat(path)
    except OSError as error:
        raise FileNotFoundError(
            f'{os.fspath(path)!r} is no file on this machine ({error.strerror}): features are kept for local files, '
            'whose size and time of change tell whether they are still the same'
        ) from error
    return [os.path.realpath(path), about.st_size, about.st_mtime_ns]
