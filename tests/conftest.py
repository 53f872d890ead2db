"""What every test shares: one thread, no network, and the folders that tests read and write."""

import copy
import functools
import gc
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
# Compilers beside this process would import torch once more each.
os.environ.setdefault('TORCHINDUCTOR_COMPILE_THREADS', '1')

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import base_dataset
from mmengine.registry import DefaultScope

import mmlora  # noqa: F401  (before any test imports mmpretrain, whose imports it cures)

torch.set_num_threads(1)
# What was imported stays: it need not be looked through for garbage, nor copied by forked processes that look.
gc.collect()
gc.freeze()


def pytest_collection_finish() -> None:
    """Freeze what the tests' modules have imported, too."""
    gc.collect()
    gc.freeze()


# A data set that serializes itself looks through the whole process for garbage, which takes longer than all else of it.
base_dataset.gc = SimpleNamespace(collect=lambda: 0)

ROOT = Path(__file__).resolve().parent.parent
OWN_CONFIGS = tuple(f'{ROOT / folder}{os.sep}' for folder in ('configs', 'tests/data/configs'))

_read = Config._file2dict
_read_once = functools.cache(_read)


def _read_as_before(filename: Any, *args: Any, **kwargs: Any) -> Any:
    """Read a config of the repository once: thousands of loads share it as a base, and mmengine parses it for each."""
    path = os.path.abspath(filename)
    if not path.startswith(OWN_CONFIGS) or not os.path.isfile(path):
        return _read(filename, *args, **kwargs)
    return copy.deepcopy(_read_once(path, *args, **kwargs))


Config._file2dict = staticmethod(_read_as_before)


class NetworkUseError(RuntimeError):
    """A test reached for the network. Not an OSError, which libraries catch to fall back in silence."""


def _check_local(family: int, address: object) -> None:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = address[0]
    try:
        local = host == 'localhost' or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise NetworkUseError(f'tests run offline, and something connects to {address!r}')


def _guard(connect: Callable) -> Callable:
    def guarded(self, address):
        _check_local(self.family, address)
        return connect(self, address)

    return guarded


@pytest.fixture(scope='session', autouse=True)
def offline():
    """Let no Python socket connect to anything but this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('connect', 'connect_ex'):
            patch.setattr(socket.socket, name, _guard(getattr(socket.socket, name)))
        yield


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    """Keep cached results out of the user's folders; tools that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMLORA_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(autouse=True)
def own_scope():
    """Begin without the default scope that a runner of an earlier test, or of a shared fixture, has left behind."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def root() -> Path:
    """The top of the repository."""
    return ROOT


@pytest.fixture(scope='session')
def golden() -> Path:
    """The folder of golden numbers."""
    return Path(__file__).resolve().parent / 'data' / 'golden'


@pytest.fixture
def work_dir(tmp_path) -> Path:
    """An empty folder for a run's outputs, of this test alone."""
    path = tmp_path / 'work_dir'
    path.mkdir()
    return path
