"""Runs of seconds for tests of training: generated images, a tiny config and comparison of checkpoints."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmlora.apis import train

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'tests' / 'data' / 'configs' / 'tiny_vit.py'
BATCHES = 5  # 36 images in batches of 8


@contextmanager
def quick_runs() -> Iterator[None]:
    """Leave out what takes longer than a tiny run: laying out the text of configs, and waiting for a busy disk."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):  # Imported late or early, by version.
            patch.setattr(f'{place}.FormatCode', lambda text, **options: (text, True), raising=False)
        patch.setattr('os.fsync', lambda descriptor: None)
        yield


def make_images(folder: Path, per_class: int = 12) -> Path:
    """Write 32 px images of three classes that differ in colour."""
    rng = np.random.default_rng(0)
    for label in range(3):
        (folder / f'class{label}').mkdir(parents=True)
        for number in range(per_class):
            image = rng.integers(0, 160, (32, 32, 3), dtype=np.uint8)
            image[..., label] += 90
            cv2.imwrite(str(folder / f'class{label}' / f'{number}.png'), image)
    return folder


def data_options(images: Path) -> dict[str, str]:
    """Return the options that point the tiny config to the images."""
    return {f'{part}_dataloader.dataset.data_root': str(images) for part in ('train', 'val', 'test')}


def tiny_config(images: Path, work_dir: Path, **options: Any) -> Config:
    """Return the tiny config; an option without double underscores replaces a whole entry, they stand for dots."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(data_options(images))
    for name, value in options.items():
        if '__' in name:
            cfg.merge_from_dict({name.replace('__', '.'): value})
        else:
            cfg[name] = value
    cfg.work_dir = str(work_dir)
    return cfg


def run_tool(*args: Any, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    """Run a script of the repository with this Python, and return what it printed."""
    words = [str(arg) for arg in args]
    if words[0].endswith('.py'):
        words = [sys.executable, *words]
    done = subprocess.run(words, cwd=ROOT, env=tool_env(**env), capture_output=True, text=True, timeout=240)
    if check and done.returncode:
        raise AssertionError(f'{words} failed:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}')
    return done


def killed_at(number: int, function: Callable[[], object]) -> None:
    """Call a function in a copy of this process that SIGKILL ends in the middle of its n-th write of a file, from 1.

    The temporary file is there then, and the file itself is not.
    """
    child = os.fork()
    if not child:
        replace, count = os.replace, iter(range(1, number))
        os.replace = lambda *names: replace(*names) if next(count, None) else os.kill(os.getpid(), signal.SIGKILL)
        try:
            function()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f'the function ended before its write {number}'
    assert os.WTERMSIG(status) == signal.SIGKILL


def silence():
    """Throw away what this process prints from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


@contextmanager
def copied(function: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Call a function in a copy of this process, which SIGKILL ends with the block; what it prints is lost.

    Yields:
        Whether the copy is still at it.
    """
    child = os.fork()
    if not child:
        try:
            silence()
            function()
        finally:
            os._exit(0)
    running = True

    def at_it() -> bool:
        nonlocal running
        running = running and os.waitpid(child, os.WNOHANG) == (0, 0)
        return running

    try:
        yield at_it
    finally:
        if at_it():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.fixture
def one_thread():
    """Compute with one thread: others would be missing in a copy of this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def call_tool(name: str, *args: Any) -> Any:
    """Call the main function of a tool in this process, which saves the time of the imports."""
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with quick_runs():
        return module.main([str(arg) for arg in args])


def tool_env(**env: str) -> dict[str, str]:
    """Return the environment of a script run by a test."""
    probes = ROOT / 'tests' / 'test_tools'
    return {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{probes}', 'PYTHON': sys.executable,
            'OMP_NUM_THREADS': '1', **env}


def load(path: Path) -> dict:
    """Read a checkpoint as plain data: it must not need more."""
    return torch.load(path, map_location='cpu', weights_only=True)


def differing(first: Any, second: Any, where: str = '') -> list[str]:
    """Return the places where two structures of tensors and plain values are not equal bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        if set(first) != set(second):
            return [f'{where}: keys {sorted(map(str, set(first) ^ set(second)))}']
        return [d for key in first for d in differing(first[key], second[key], f'{where}.{key}')]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [f'{where}: {len(first)} and {len(second)} items']
        return [d for i, (a, b) in enumerate(zip(first, second, strict=True)) for d in differing(a, b, f'{where}[{i}]')]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    return [] if first == second else [f'{where}: {first!r} and {second!r}']


def training_state(path: Path) -> dict:
    """Return what must be equal after a resumed run: weights, averages, optimizer, schedulers, losses."""
    checkpoint = load(path)
    state = {k: v for k, v in checkpoint.items() if k not in ('meta', 'message_hub')}
    state['loss'] = checkpoint['message_hub']['log_scalars']['train/loss']
    state['at'] = [checkpoint['meta'][k] for k in ('epoch', 'iter', 'seed')]
    return state


def differing_runs(first: Path, second: Path) -> list[str]:
    """Return what differs between the training states of two checkpoints."""
    return differing(training_state(first), training_state(second))


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """A folder of generated images in three classes."""
    return make_images(tmp_path_factory.mktemp('data') / 'images')


@pytest.fixture(autouse=True)
def quick():
    """Make runs quick; see :func:`quick_runs`."""
    with quick_runs():
        yield


@pytest.fixture(scope='session')
def whole_run(tmp_path_factory, images):
    """The folder of an uninterrupted run of the tiny config. Not to be written to."""
    folder = tmp_path_factory.mktemp('whole')
    with quick_runs():
        train(tiny_config(images, folder))
    return folder
