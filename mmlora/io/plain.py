"""Checkpoints as plain data: tensors, numbers, text and containers of them, nothing else.

mmengine saves its history buffers and numpy scalars as pickled objects, which ``torch.load(weights_only=True)``
refuses. What passes through :func:`plain_checkpoint` loads with ``weights_only=True`` anywhere, without this package;
:func:`from_plain` turns the history buffers back, exactly.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

MARK = '__mmlora__'  # The key that marks a dict as the plain form of an object.
_HISTORY = 'HistoryBuffer'

_PLAIN_LEAVES = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)


def to_plain(value: Any, where: str = 'value') -> Any:
    """Turn a value into plain data.

    History buffers become marked dicts; numpy scalars Python numbers; numpy arrays of numbers tensors, arrays of text
    nested lists; mappings dicts (``OrderedDict`` stays one); paths text. Containers are rebuilt, tensors are shared.

    Args:
        value: Anything made of the above, such as ``message_hub.state_dict()``.
        where: The name of ``value`` in error messages.

    Returns:
        The plain value; the argument is not changed.

    Raises:
        TypeError: Something inside has no plain form; the message names where it is and its class.
    """
    if type(value) is bytes and not value:
        return bytearray()  # Pickled as a call of `bytes`, which weights_only refuses.
    if type(value) in _PLAIN_LEAVES or type(value) in _PLAIN_TENSORS:
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _plain_array(value, where)
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return {MARK: _HISTORY, 'log': _plain_array(log, f'{where}.log'),
                'count': _plain_array(count, f'{where}.count'), 'max_length': int(value.max_length)}
    if isinstance(value, Mapping):
        return _plain_mapping(value, where)
    if type(value) in (list, tuple, set):
        return type(value)(to_plain(item, f'{where}[{index}]') for index, item in enumerate(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f'{where} is a {type(value)}, which a checkpoint cannot hold: save plain data (tensors, numbers, '
                    'text, and dicts, lists, tuples or sets of them) in its place')


def from_plain(value: Any, where: str = 'value') -> Any:
    """Turn the marked dicts of :func:`to_plain` back into history buffers; everything else is kept as it is.

    Args:
        value: What was read from a file.
        where: The name of ``value`` in error messages.

    Returns:
        The same structure with rebuilt dicts, lists and tuples; tensors are shared. What became a tensor or a Python
        number stays one.

    Raises:
        ValueError: A marked dict does not hold what its mark promises.
    """
    if isinstance(value, Mapping):
        if MARK in value:
            return _history(value, where)
        items = ((key, from_plain(item, f'{where}.{key}')) for key, item in value.items())
        return _like(value, items)
    if type(value) in (list, tuple):
        return type(value)(from_plain(item, f'{where}[{index}]') for index, item in enumerate(value))
    return value


def plain_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a whole checkpoint (weights, meta, message hub, optimizer, schedulers) into plain data.

    A hook can use it in place: ``checkpoint.update(plain_checkpoint(checkpoint))``.

    Args:
        checkpoint: What a runner is about to save.

    Returns:
        A new dict with the same keys and shared tensors.

    Raises:
        TypeError: Something inside has no plain form, such as
            ``message_hub.runtime_info.foo is a <class 'function'>``.
    """
    return {key: to_plain(value, str(key)) for key, value in checkpoint.items()}


def _plain_array(array: np.generic | np.ndarray, where: str) -> Any:
    kind = array.dtype.kind
    if kind in 'SU':
        return array.tolist()
    if kind not in 'biufc':
        raise TypeError(f'{where} is a numpy value of dtype {array.dtype}, which a checkpoint cannot hold: only '
                        'numbers and text are plain data')
    if isinstance(array, np.generic):
        return array.item()
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder('='), copy=True, order='C'))


def _plain_mapping(value: Mapping, where: str) -> dict:
    items = ((to_plain(key, f'a key of {where}'), to_plain(item, f'{where}.{key}')) for key, item in value.items())
    return _like(value, items)


def _like(value: Mapping, items: Any) -> dict:
    if type(value) is not OrderedDict:
        return dict(items)
    result = OrderedDict(items)
    if hasattr(value, '_metadata'):  # The version numbers that a module's state_dict carries.
        result._metadata = value._metadata
    return result


def _history(value: Mapping, where: str) -> HistoryBuffer:
    log, count, length = value.get('log'), value.get('count'), value.get('max_length')
    fits = (value[MARK] == _HISTORY and isinstance(log, torch.Tensor) and isinstance(count, torch.Tensor)
            and log.ndim == 1 and log.shape == count.shape and type(length) is int and length > 0)
    if not fits:
        raise ValueError(f'{where} is marked as {value[MARK]!r} but is not the plain form of a history buffer: two '
                         "vectors of one length under 'log' and 'count' and a positive 'max_length'")
    buffer = HistoryBuffer(max_length=length)
    # Set directly: the constructor would copy through Python lists and warn about a length that was legal.
    buffer._log_history, buffer._count_history = log.cpu().numpy().copy(), count.cpu().numpy().copy()
    return buffer
