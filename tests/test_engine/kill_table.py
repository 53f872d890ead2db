"""Runs that SIGKILL ends, and that go on: do they leave behind what the run does that nobody killed?

``PYTHONPATH=.:tests python tests/test_engine/kill_table.py [RANDOM]`` kills a run of each way to train at the places of
:data:`kill_modes.POINTS`, and RANDOM times anywhere, and prints the table of docs/reliability.md.
"""

import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
import tiny
import torch
from kill_modes import MODES, POINTS, Mode, World, contents
from mmengine.registry import DefaultScope
from mmengine.runner import Runner


@contextmanager
def events(see: Callable[[str], object]) -> Iterator[None]:
    """Call a function at each event of a run: hooks, backward passes, and before and after each replaced file."""
    def backward(real: Callable) -> Callable:
        return lambda *args, **kwargs: (see('step'), real(*args, **kwargs))[1]

    def replacing(real: Callable) -> Callable:
        def replace(source: object, target: object) -> None:
            see(f'half {Path(target).name}')
            real(source, target)
            see(f'whole {Path(target).name}')

        return replace

    def hooking(real: Callable) -> Callable:
        def call_hook(self: Runner, name: str, **kwargs: object) -> None:
            see(f'hook {name}')
            real(self, name, **kwargs)

        return call_hook

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', replacing(os.replace))
        patch.setattr(Runner, 'call_hook', hooking(Runner.call_hook))
        for name in ('backward', 'grad'):
            patch.setattr(torch.autograd, name, backward(getattr(torch.autograd, name)))
        yield


class KilledRuns:
    """A mode's whole run, and those that are killed.

    Args:
        mode: What is run.
        world: What it reads.
        folder: Where it writes.
    """

    def __init__(self, mode: Mode, world: World, folder: Path) -> None:
        self.mode, self.world, self.folder = mode, world, folder
        self.events: list[str] = []
        getattr(world, mode.reads)
        start = time.perf_counter()
        with events(self.events.append):
            self._run('whole')
        self.seconds = time.perf_counter() - start
        self.whole = contents(folder / 'whole')

    def place(self, point: str) -> int:
        """Return the event of a named point."""
        pattern, fraction = self.mode.points[point]
        places = [number for number, event in enumerate(self.events) if re.fullmatch(pattern, event)]
        return places[int(fraction * len(places))]

    def difference(self, place: int | None = None, seconds: float | None = None) -> list[str]:
        """Kill a run at an event, or after some time; go on with it, and say what is other than in the whole run."""
        while not self._killed(place, seconds):
            shutil.rmtree(self.folder / 'killed')
            if seconds is None:
                return [f'the run has ended before event {place}']
            seconds *= 0.9  # It was faster than the whole one.
        self._run('killed')
        found = tiny.differing(self.whole, contents(self.folder / 'killed'))
        shutil.rmtree(self.folder / 'killed')
        return found

    def _killed(self, place: int | None, seconds: float | None) -> bool:
        """Run in a copy of this process; return whether SIGKILL has ended it."""
        with _copy(lambda: self._die(place)) as child:
            if seconds is not None:
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def _run(self, name: str) -> None:
        DefaultScope._instance_dict.clear()
        with tiny.quick_runs():
            self.mode.run(self.world, self.folder / name)

    def _die(self, place: int | None) -> None:
        count = iter(range(place + 1 if place is not None else 0))

        def see(event: str) -> None:
            if next(count, None) == place and place is not None:
                os.kill(os.getpid(), signal.SIGKILL)

        with events(see):
            self._run('killed')


@contextmanager
def _copy(function: Callable[[], object]) -> Iterator[int]:
    """Call a function in a copy of this process, whose output is lost."""
    child = os.fork()
    if not child:
        try:
            tiny.silence()
            function()
            os._exit(0)
        finally:
            os._exit(1)
    yield child


def random_kills(runs: KilledRuns, number: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Kill by turns at a random event and at a random time; yield what was done, and what differs."""
    draw = random.Random(seed)
    for turn in range(number):
        if turn % 2:
            seconds = draw.uniform(0, runs.seconds)
            yield f'after {seconds:.3f} s of {runs.seconds:.3f} s', runs.difference(seconds=seconds)
        else:
            place = draw.randrange(len(runs.events))
            yield f'event {place}, {runs.events[place]}', runs.difference(place)


def main(argv: list[str]) -> int:
    """Print the table; return 1 where a run that went on differs."""
    number, failed = int(argv[0]) if argv else 0, []
    torch.set_num_threads(1)
    table = sys.stdout

    def tell(*row: str) -> None:
        print(f'| {" | ".join(row)} |', file=table, flush=True)

    tell('killed', *POINTS, *(['anywhere'] if number else []))
    tell(*['---'] * (1 + len(POINTS) + bool(number)))
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        world = World(Path(folder))
        for count, (name, mode) in enumerate(MODES.items()):
            runs, row = KilledRuns(mode, world, Path(folder) / f'mode{count}'), []
            for point in POINTS:
                found = runs.difference(runs.place(point))
                failed += [f'{name}, {point}: {found[:5]}'] if found else []
                row.append('differs' if found else '1 of 1')
            done = list(random_kills(runs, number, count))
            failed += [f'{name}, {what}: {found[:5]}' for what, found in done if found]
            tell(name, *row, *([f'{sum(not found for _, found in done)} of {number}'] if number else []))
    print('\n'.join([f'{len(MODES) * (len(POINTS) + number)} kills, {len(failed)} of them with another end', *failed]))
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
