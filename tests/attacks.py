"""Files that somebody wrote to do harm: what tests of several rooms share of them."""

import functools
import io
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine import Config
from mmengine.logging import HistoryBuffer

import mmlora  # noqa: F401  (installs the loaders)

WEIGHTS = {'weight': torch.arange(6.0).reshape(2, 3), 'bias': torch.ones(2, dtype=torch.bfloat16)}


class Attack(NamedTuple):
    """One attack.

    Attributes:
        kind: What it tries.
        name: In which way.
        build: ``(folder, marker) -> path``: writes the files. What would run makes the folder ``marker``.
        read: ``path -> value``: what a user calls.
        says: Pattern of the error, or None where the rest of the file is read and nothing of it runs.
        error: Its type.
    """

    kind: str
    name: str
    build: Callable[[Path, Path], Path]
    read: Callable[[Path], Any]
    says: str | None
    error: type[Exception] = ValueError


# --- pickles ---------------------------------------------------------------------------------------------------------

class Runs:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class Attribute:
    """``getattr(owner, name)`` when unpickled."""

    def __init__(self, owner, name):
        self.args = (owner, name)

    def __reduce__(self):
        return getattr, self.args


PICKLES = {
    'mkdir': (lambda marker: Runs(os.mkdir, marker), 'mkdir'),
    'exec': (lambda marker: Runs(exec, f'import os; os.mkdir({marker!r})'), 'builtins.exec'),
    'eval': (lambda marker: Runs(eval, f'__import__("os").mkdir({marker!r})'), 'builtins.eval'),
    'a config that runs': (lambda marker: Runs(Config.fromstring, f'import os; os.mkdir({marker!r})', '.py'),
                           'mmengine.config.config'),
    'getattr of a plain type': (lambda marker: Attribute(OrderedDict, 'fromkeys'), "getattr of 'fromkeys'"),
    'getattr of a buffer': (lambda marker: Attribute(HistoryBuffer, '__init__'), "getattr of '__init__'"),
    'getattr of a method': (lambda marker: Attribute(HistoryBuffer, 'register_statistics'), 'register_statistics'),
    'getattr called on': (lambda marker: Attribute(Attribute(HistoryBuffer, 'mean'), '__globals__'), '__globals__'),
    'array of objects': (lambda marker: np.array([Runs(os.mkdir, marker)], dtype=object), 'mkdir'),
    'array of harmless objects': (lambda marker: np.array([{}], dtype=object), 'numpy value of a type other'),
    'type of a buffer': (lambda marker: HistoryBuffer, 'a type or function in place of a value'),
    'getattr itself': (lambda marker: getattr, 'a type or function in place of a value'),
    'a numpy type': (lambda marker: np.dtype('f8'), 'a type or function in place of a value'),
    'partial': (lambda marker: functools.partial(os.mkdir, marker), 'functools.partial'),
}
"""What a pickle holds, and what the error names."""

# torch reads protocol 2 only: of protocol 4 the names are listed, and what would be refused later is not reached.
NAMED_EARLY = ('mkdir', 'exec', 'eval', 'partial', 'a config that runs')


def poisoned(name: str, marker: Path) -> dict:
    """Return a checkpoint with one of :data:`PICKLES` in its meta."""
    return {'state_dict': dict(WEIGHTS), 'meta': {'epoch': 1, 'iter': 1, 'x': PICKLES[name][0](str(marker))}}


def saved(content: Any, **kwargs: Any) -> bytes:
    """Return what ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8', 'surrogatepass'))
    return path


def file_of(name: str, content: Callable[[Path], bytes | str] | bytes | str) -> Callable[[Path, Path], Path]:
    """A builder of one file; its content may depend on the marker."""
    return lambda folder, marker: put(folder / name, content(marker) if callable(content) else content)


