"""What a checkpoint may claim to be: a small file must not become a huge value, nor a value without an end.

A compressed archive can hold a thousand times its size, a pickle can name one list within another many times over, and
a tensor can repeat one number a billion times. None of them runs code, and each of them stops the program that looks
at all of it.
"""

import os
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_DEPTH = 100
"""Dicts and lists within each other; a training state has about ten."""

MAX_RATIO = 32
"""Bytes that a file may stand for, for each of its own; weights hardly shrink when they are compressed."""

SLACK = 64 * 2**20
"""Bytes that any file may stand for."""

MAX_NODES = 2**18
"""Values that any file may hold; larger ones one for each of their bytes."""

_REMEDY = 'no training writes such a file; get it again from where it comes from'


def check_packed(path: str | os.PathLike) -> None:
    """Check how much a zip archive says that it unpacks to; any other file passes.

    Raises:
        ValueError: Far more than its own size.
        zipfile.BadZipFile: It is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
    except (ValueError, LookupError, NotImplementedError, OSError, struct.error) as error:  # Of a damaged directory.
        raise zipfile.BadZipFile(str(error)) from error
    _check_bytes(claimed, path, 'unpacks')


def check_content(value: Any, path: str | os.PathLike, inside: Callable[[Any], Iterable] | None = None) -> None:
    """Check that what was read from a file has an end, and about the size of the file.

    Args:
        value: What was read.
        path: The file.
        inside: Gives the values in an object that is no dict, list or tuple; None knows no others.

    Raises:
        ValueError: It is nested too deeply or in itself, holds more values than the file can, or tensors that take
            far more memory than the file.
    """
    limit = max(MAX_NODES, Path(path).stat().st_size)
    level, count, tensors = [value], 0, {}
    for _ in range(MAX_DEPTH):
        below = []
        for node in level:
            if isinstance(node, Tensor):
                if node.layout is torch.strided and node.device.type != 'meta':
                    tensors[node.data_ptr(), node.shape, node.stride()] = node.nbytes
            elif isinstance(node, dict):
                below.extend(node.values())
            elif isinstance(node, list | tuple):
                below.extend(node)
            elif inside is not None:
                below.extend(inside(node))
            if count + len(below) > limit:
                raise ValueError(f'{path} is refused: it holds more than {limit} values by naming some of them many '
                                 f'times; {_REMEDY}')
        count, level = count + len(below), below
        if not level:
            return _check_bytes(sum(tensors.values()), path, 'holds tensors that come')
    raise ValueError(f'{path} is refused: its values are nested deeper than {MAX_DEPTH} levels; {_REMEDY}')


def _check_bytes(claimed: int, path: str | os.PathLike, what: str) -> None:
    size = Path(path).stat().st_size
    if claimed > SLACK + MAX_RATIO * size:
        raise ValueError(f'{path} is refused: it {what} to {claimed} bytes, and has {size}; {_REMEDY}')
