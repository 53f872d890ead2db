"""Where the processes of a sweep run: on this machine, or as tasks of Ray."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._requirements import install_extra
from .sweep_state import DONE, FAILED, LOG, RUNNING, STOPPED, read_state, write_state

PROGRAM = (sys.executable, '-m', 'mmlora.apis.sweep_job')
_PATIENCE = 10.0  # Seconds for a process to end when it is asked to.
_PAUSE = 0.1  # Seconds between two looks at a process.
_TAIL = 4000  # Bytes of a log that are kept of a failure.


@dataclass(frozen=True)
class Resources:
    """What the runs of a sweep may use.

    Attributes:
        workers: Runs at once; None is one for each GPU named, else one, and with Ray as many as its resources allow.
        gpus: Names of GPUs as in CUDA_VISIBLE_DEVICES, of which each run gets one in turn.
        threads: Threads of a run, and its CPUs on Ray; None divides the CPUs of this machine by ``workers``, and is 1
            on a cluster.
        ray_address: The cluster, ``auto`` for the one of this machine; None starts Ray here for the sweep.
        gpus_per_job: GPUs of a run on Ray; a part of one lets several share it.
        program: Command that runs a folder.
    """

    workers: int | None = None
    gpus: tuple[str, ...] = ()
    threads: int | None = None
    ray_address: str | None = None
    gpus_per_job: float = 0.0
    program: tuple[str, ...] = PROGRAM

    def __post_init__(self) -> None:
        for name in ('workers', 'threads'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        if self.gpus_per_job < 0:
            raise ValueError(f'gpus_per_job must be at least 0, got {self.gpus_per_job}')


@dataclass(frozen=True)
class Launch:
    """One process to start, as plain data that can be sent to another machine with the same storage.

    Attributes:
        folder: Folder of the run, absolute.
        cwd: Folder that relative paths of its config start from.
        program: The command, without the folder.
        env: Environment variables that it gets in addition.
    """

    folder: str
    cwd: str
    program: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


def run_process(launch: Launch, stop: Callable[[], bool] = lambda: False) -> str:
    """Run one run in a process of its own, to its end; write down what becomes of it.

    Args:
        launch: The process.
        stop: Looked at while it runs; once true, the process is stopped.

    Returns:
        Its status: ``done``, ``failed`` or ``stopped``.
    """
    folder, start = Path(launch.folder), time.monotonic()
    state = read_state(folder) or {}
    write_state(folder, status=RUNNING, attempts=state.get('attempts', 0) + 1, reason=None, tail=None)
    with open(folder / LOG, 'ab') as log:
        begin = log.tell()
        # Its own group, so that its data workers go with it and Ctrl-C reaches the sweep alone, which then asks it to
        # end. The pipe tells it when the sweep is gone; see `follow_parent`.
        process = subprocess.Popen(
            [*launch.program, '--end-with-input', launch.folder], cwd=launch.cwd, env={**os.environ, **launch.env},
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            while process.poll() is None and not stop():
                time.sleep(_PAUSE)
            stopped = process.poll() is None
        finally:
            _end(process)
    seconds = round(state.get('seconds', 0.0) + time.monotonic() - start, 1)
    reason = 'stopped' if stopped else explain_exit(process.returncode)
    ended = (read_state(folder) or {}).get('status')
    if ended == DONE and not reason:
        return write_state(folder, seconds=seconds)['status']
    reason = reason or 'the process has ended without a result'
    return write_state(folder, status=STOPPED if stopped else FAILED, seconds=seconds, reason=reason,
                       tail=_tail(folder / LOG, begin))['status']


def explain_exit(code: int) -> str:
    """Say how a process ended; an empty text where all was well."""
    if code < 0:
        name = signal.Signals(-code).name
        return f'killed by {name}' + (', as the system does when memory runs out' if name == 'SIGKILL' else '')
    return f'exit status {code}' if code else ''


def run_here(launches: Sequence[Launch], resources: Resources) -> Iterator[str]:
    """Run processes on this machine, several at once; yield the folder of each as it ends."""
    places: queue.SimpleQueue = queue.SimpleQueue()
    workers = min(workers_of(resources), max(len(launches), 1))
    for number in range(workers):
        places.put({'CUDA_VISIBLE_DEVICES': resources.gpus[number % len(resources.gpus)]} if resources.gpus else {})
    stop = threading.Event()

    def run(launch: Launch) -> str:
        if stop.is_set():
            return launch.folder
        place = places.get()
        try:
            run_process(Launch(launch.folder, launch.cwd, launch.program, {**launch.env, **place}), stop.is_set)
        finally:
            places.put(place)
        return launch.folder

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run, launch) for launch in launches]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()


def run_on_ray(launches: Sequence[Launch], resources: Resources) -> Iterator[str]:
    """Run processes as tasks of Ray; yield the folder of each as it ends.

    Every machine of the cluster must see the folders, the data and this package under the same paths.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('the engine "ray" needs Ray, which is not installed: '
                          f'{install_extra("ray")}') from error
    threads = threads_of(resources, 'ray')
    own = not ray.is_initialized()
    if own:
        here = dict(num_cpus=threads * workers_of(resources), include_dashboard=False)
        ray.init(address=resources.ray_address or 'local', log_to_driver=False, logging_level='ERROR',
                 **({} if resources.ray_address else here))
    task = ray.remote(num_cpus=threads, num_gpus=resources.gpus_per_job, max_retries=0)(run_process)
    waiting = list(launches)
    running: dict[Any, Launch] = {}
    try:
        while waiting or running:
            while waiting and (resources.workers is None or len(running) < resources.workers):
                launch = waiting.pop(0)
                running[task.remote(launch)] = launch
            (ended, ), _ = ray.wait(list(running), num_returns=1)
            launch = running.pop(ended)
            try:
                ray.get(ended)
            except ray.exceptions.RayError as error:  # The task, not the run: a lost machine, or no memory for it.
                cause = getattr(error, 'cause', None) or error  # A task that raises hides it in a text of many lines.
                lines = str(cause).strip().splitlines() or ['']
                write_state(launch.folder, status=FAILED, reason=f'Ray: {type(cause).__name__}: {lines[0]}', tail='')
            yield launch.folder
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if own:
            ray.shutdown()


ENGINES: dict[str, Callable[[Sequence[Launch], Resources], Iterator[str]]] = {'local': run_here, 'ray': run_on_ray}
"""Runs processes to their end, whatever becomes of them, and yields their folders; closing it stops them."""


def workers_of(resources: Resources) -> int:
    """Return how many runs this machine does at once."""
    return resources.workers or len(resources.gpus) or 1


def threads_of(resources: Resources, engine: str) -> int:
    """Return how many threads a run gets."""
    if resources.threads is not None:
        return resources.threads
    if engine != 'local' and resources.ray_address is not None:
        return 1
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(1, cpus // workers_of(resources))


def _end(process: subprocess.Popen) -> None:
    """End a process and its group: it is asked to, and made to after a while."""
    for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode < 0:
        with suppress(ProcessLookupError):  # Data workers of a process that something else has killed.
            os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()


def _tail(path: Path, begin: int) -> str:
    with open(path, 'rb') as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - _TAIL))
        return file.read().decode(errors='replace')
