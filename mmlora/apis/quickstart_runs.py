"""What the comparisons of methods share: their runs, side by side, the table, and the test in a new process."""

import difflib
import hashlib
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..io.atomic import write_text
from .trial import Trial


@dataclass(frozen=True)
class Run(Trial):
    """A trial and what it tried.

    Attributes:
        method: Name of the method in the table.
        n_shot: Labelled images of each class.
        seed: Seed of the run and of the choice of images.
    """

    method: str
    n_shot: int
    seed: int


def choose(names: Sequence[str], methods: Mapping[str, str]) -> list[str]:
    """Return the keys of ``methods`` that names mean: its keys and values in any case, and ``all``.

    Args:
        names: What a user asks for.
        methods: Name in the table -> name in the configs.

    Raises:
        ValueError: A name is unknown.
    """
    known = {name.lower(): method for method, slug in methods.items() for name in (method, slug)}
    chosen: list[str] = []
    for name in names:
        if name.lower() != 'all' and name.lower() not in known:
            close = difflib.get_close_matches(name.lower(), known, n=3) or methods.values()
            raise ValueError(f'unknown method {name!r}: did you mean one of {[*close, "all"]}?')
        chosen += methods if name.lower() == 'all' else [known[name.lower()]]
    return [method for method in methods if method in chosen]


def settings_of(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Return every combination of the values of a grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def bind_folder(folder: Path, *made_of: Any) -> None:
    """Write down what the run in a folder is made of, or check that it is the same as before.

    Args:
        folder: Of the run.
        *made_of: Plain data: its settings, and what stands for the files that it reads.

    Raises:
        ValueError: The folder holds another run, or one of which nothing is known.
    """
    text = json.dumps(made_of, sort_keys=True, default=str)
    digest, mark = hashlib.sha256(text.encode()).hexdigest(), folder / 'settings.sha256'
    known = mark.read_text(encoding='utf-8') if mark.is_file() else None
    if known != digest and (known or any(folder.glob('*.pth'))):
        raise ValueError(f'{folder} holds a run of other settings, or made of other files: delete it, or give another '
                         '--work-dir')
    write_text(mark, digest)


def run_jobs(function: Callable[..., Run], jobs: Sequence[tuple], workers: int) -> Iterator[Run]:
    """Yield the results of a function, in order; each process runs one job at a time in one thread."""
    # Spawned, since a process that has used threads cannot be forked safely.
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_prepare_worker) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True))


def _prepare_worker() -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # A run sets its own, and would warn of another.


def summary(runs: Sequence[Run], images: str = 'images/class') -> str:
    """Return the table of accuracies (mean and standard deviation over seeds), trained parameters and seconds.

    Args:
        runs: Results; rows follow the order in which methods first occur. Parameters are those with most images.
        images: What the number of images is called above its column.
    """
    shots = sorted({run.n_shot for run in runs})
    heads = [f'{n_shot} {images}' for n_shot in shots]
    lines = [f'{"method":<18}' + ''.join(f'{head:>18}' for head in heads) + f'{"trained":>10}{"s/run":>7}']
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        cells = []
        for n_shot in shots:
            values = [run.accuracy for run in own if run.n_shot == n_shot]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f'{statistics.mean(values):.1f} +- {spread:.1f} %' if values else '-')
        seconds = statistics.mean(run.seconds for run in own)
        row = ''.join(f'{cell:>18}' for cell in cells)
        trained = max(own, key=lambda run: run.n_shot).trainable
        lines.append(f'{method:<18}{row}{trained:>10,}{seconds:>7.1f}')
    return '\n'.join(lines)


def test_again(tool: Path, config: Path, trial: Trial, *options: str) -> float:
    """Test the checkpoint of a trial with ``tools/test.py`` in a new process.

    Args:
        tool: ``tools/test.py``.
        config: The config of the trial.
        trial: The trial.
        *options: Further ones of the tool.

    Returns:
        The accuracy in percent.

    Raises:
        RuntimeError: The tool failed; its own message is part of this one.
    """
    out = trial.work_dir / 'test' / 'metrics.json'
    command = [sys.executable, str(tool), str(config), str(trial.checkpoint)]
    command += ['--work-dir', str(out.parent), '--out', str(out), '--out-item', 'metrics', *options]
    path = os.pathsep.join(filter(None, [str(tool.parents[1]), os.environ.get('PYTHONPATH')]))
    done = subprocess.run(command, env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr}')
    return json.loads(out.read_text(encoding='utf-8'))['accuracy/top1']


test_again.__test__ = False  # Not a case for pytest, whatever its name.
