"""What an older mmengine checkpoint may hold beyond plain data, as a closed list.

mmengine pickles its history buffers, numpy scalars and arrays and (some versions) ``ConfigDict``. To read them without
trusting the file, each of those pickled names is mapped to a small class or function of this module, never to the real
one: nothing of numpy or mmengine is called while the file is read, and ``builtins.getattr``, by which a history buffer
names its statistics, becomes a function that knows four names. :func:`resolve` then builds the real objects from what
these gathered.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_STATISTICS = ('min', 'max', 'current', 'mean')  # HistoryBuffer's own; they are methods of every buffer anyway.
_NUMBERS_AND_TEXT = 'biufcSU'  # Kinds of numpy types whose bytes are the value.


class RefusedError(ValueError):
    """A file holds more than data. Not an ``UnpicklingError``, whose message torch would replace by its own."""


class _Dtype:
    """A numpy dtype: its code, such as ``'f8'``, then its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self._dtype = np.dtype(code) if type(code) is str and code[:1] in _NUMBERS_AND_TEXT else None

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if self._dtype is not None and order in ('<', '>'):
            self._dtype = self._dtype.newbyteorder(order)

    def read(self, data: Any) -> np.ndarray:
        """Interpret bytes as a vector of this type."""
        if self._dtype is None or type(data) is not bytes:
            raise RefusedError('a numpy value of a type other than numbers and text')
        return np.frombuffer(data, self._dtype)


class _Array:
    """A numpy array: shape, dtype and bytes."""

    def __setstate__(self, state: tuple) -> None:
        _, self._shape, self._dtype, self._by_columns, self._data = state

    def resolve(self) -> np.ndarray:
        """Build the real array, writable."""
        if not isinstance(self._dtype, _Dtype):
            raise RefusedError('a numpy array without a type')
        flat = self._dtype.read(self._data)
        return flat.reshape(self._shape, order='F' if self._by_columns else 'C').copy(order='K')


class _History:
    """A history buffer: its two vectors and its greatest length. The statistics that it names are dropped."""

    def __setstate__(self, state: dict) -> None:
        self._state = state

    def resolve(self) -> HistoryBuffer:
        """Build the real buffer."""
        log, count = (self._state[name] for name in ('_log_history', '_count_history'))
        length = self._state['max_length']
        if not isinstance(log, _Array) or not isinstance(count, _Array) or type(length) is not int:
            raise RefusedError('a history buffer without histories')
        buffer = HistoryBuffer(max_length=length)
        buffer._log_history, buffer._count_history = log.resolve(), count.resolve()
        return buffer


class _Namespace:
    """Arguments of a command line, as training programs of other projects save them; becomes a dict."""

    def resolve(self) -> dict:
        """Give the arguments as a dict."""
        return resolve(self.__dict__)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype):
        raise RefusedError('a numpy scalar without a type')
    return dtype.read(data)[0].item()


def _config_dict(items: Any = ()) -> dict:
    return dict(items)


def _empty_bytes() -> bytes:
    return b''  # The one value of its type that is pickled as a call.


def _statistic(owner: Any, name: Any) -> str:
    """Stand in for ``getattr``: name a statistic of a history buffer, and nothing else."""
    if owner is not _History or name not in _STATISTICS:
        raise RefusedError(f'builtins.getattr of {name!r}')
    return name


CLOSED_LIST: Mapping[str, Any] = {
    'argparse.Namespace': _Namespace,
    'builtins.bytes': _empty_bytes,
    'builtins.getattr': _statistic,
    'mmengine.config.config.ConfigDict': _config_dict,
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'numpy.core.multiarray._reconstruct': _reconstruct,
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray._reconstruct': _reconstruct,
    'numpy._core.multiarray.scalar': _scalar,
    'numpy.dtype': _Dtype,
    'numpy.ndarray': _Array,
}
"""The pickled name of everything that is read beyond plain data, and what stands in for it."""


@contextmanager
def closed_list() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read the names of :data:`CLOSED_LIST` while the context is open.

    Types that the user allowed with ``torch.serialization.add_safe_globals`` stay allowed, except under a name of the
    list: an allowed real ``getattr`` must not win over the stand-in. The user's own list is restored on exit.
    """
    before = torch.serialization.get_safe_globals()
    ours = [(stand_in, name) for name, stand_in in CLOSED_LIST.items()]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([entry for entry in before if _name(entry) not in CLOSED_LIST] + ours)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def stand_in_values(value: Any) -> Iterable:
    """Return what a stand-in holds that :func:`resolve` goes through; nothing of any other object."""
    return vars(value).values() if isinstance(value, _Namespace) else ()


def resolve(value: Any) -> Any:
    """Replace every stand-in inside a value by the real object.

    Args:
        value: What was read inside :func:`closed_list`.

    Returns:
        The same structure with rebuilt dicts, lists and tuples; tensors are shared. Of the attributes that a file may
        set on an ``OrderedDict`` only a module's version numbers are kept.

    Raises:
        RefusedError: A stand-in did not gather what the real object needs.
    """
    if isinstance(value, _Array | _History | _Namespace):
        return value.resolve()
    if isinstance(value, _Dtype) or any(value is stand_in for stand_in in CLOSED_LIST.values()):
        raise RefusedError('a type or function in place of a value')
    if isinstance(value, OrderedDict):
        result = OrderedDict((key, resolve(item)) for key, item in value.items())
        metadata = value.__dict__.get('_metadata')
        if isinstance(metadata, Mapping):
            result._metadata = metadata
        return result
    if type(value) is dict:
        return {key: resolve(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(resolve(item) for item in value)
    return value


def _name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'
