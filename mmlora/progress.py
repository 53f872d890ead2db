"""One live line at the bottom of a terminal: how far a long job is, how well it goes, how long it will take.

On a terminal the line is redrawn in place, and whatever is printed or logged meanwhile appears above it, unchanged. In
a pipe, a file or a batch job nothing is drawn at all, so that plain log lines are what is left. Lines may be nested (an
evaluation within a training): the innermost one is shown, behind the names of those around it.

Nothing here draws random numbers, starts threads in a process that will fork (unless ``ticking`` is asked for), or is
kept in a checkpoint.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.text import Text

from .terminal import Screen, is_live

Item = TypeVar('Item')
INTERVAL = 0.2  # Seconds between two drawings, at least.
_BAR, _ROOM_FOR_BAR = 16, 90  # Columns of the bar, and of a terminal that shows one.


class ProgressLine:
    """How far a job is. :func:`progress_line` opens and closes one.

    Args:
        label: Name of the job.
        total: Its steps; None where they are not known.
        done: Steps that were done before, by an earlier process.
    """

    def __init__(self, label: str, total: int | None = None, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.fields: dict[str, Any] = {}
        self._first, self._drawn = done, float('-inf')
        self._began = self._at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is drawn and an update would be shown; what is costly to find out can wait until then."""
        return self in _SCREEN.lines and time.monotonic() - self._drawn >= INTERVAL

    def update(self, done: int | None = None, **fields: Any) -> None:
        """Tell how far the job is.

        Args:
            done: Finished steps.
            **fields: What is shown beside it, such as ``loss=0.25``; underscores of a name become spaces, None takes
                a field away, and the others stay.
        """
        if done is not None:
            self.advance(done)
        self.fields.update({name.replace('_', ' '): value for name, value in fields.items()})
        if self.due:
            self._drawn = time.monotonic()
            _SCREEN.draw()

    def advance(self, done: int) -> None:
        """Note how many steps are done, and draw nothing."""
        self.done, self._at = done, time.monotonic()

    def seconds_left(self, part: float = 0.0) -> float | None:
        """Estimate the rest of the job from the steps that were done since it began; None where nothing is known.

        Args:
            part: How much of the step is done that it is at; counts for the first one.
        """
        steps, now = self.done - self._first, time.monotonic()
        if self.total is None or steps + part <= 0:
            return None
        if not steps:
            return max((now - self._began) / part * (self.total - self.done - part), 0.0)
        return max((self._at - self._began) / steps * (self.total - self.done) - (now - self._at), 0.0)

    def position(self) -> str:
        """Return ``train 3/10``."""
        return f'{self.label} {self.done}' if self.total is None else f'{self.label} {self.done}/{self.total}'


def note(**fields: Any) -> None:
    """Show fields with the innermost line; without one nothing happens."""
    if _SCREEN.lines:
        _SCREEN.lines[-1].update(**fields)


def tracked(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield items, while a live line counts those that are done."""
    with progress_line(label, len(items)) as line:
        for number, item in enumerate(items):
            yield item
            line.update(number + 1)


@contextmanager
def progress_line(
    label: str, total: int | None = None, done: int = 0, ticking: bool = False
) -> Iterator[ProgressLine]:
    """Show a live line while the context lasts; where none may be drawn, updates do nothing.

    Args:
        label: Name of the job.
        total: Its steps.
        done: Steps that an earlier process has done.
        ticking: Redraw it every second by a thread, for a job that waits for other processes. Never around code that
            forks.

    Yields:
        The line, to be updated.
    """
    line = ProgressLine(label, total, done)
    open_line(line)
    ended = threading.Event()
    if ticking and line in _SCREEN.lines:
        threading.Thread(target=_tick, args=(ended, ), daemon=True).start()
    try:
        yield line
    finally:
        ended.set()
        close_line(line)


def open_line(line: ProgressLine) -> None:
    """Show a line; nothing happens where none may be drawn."""
    if is_live(_SCREEN.terminal):
        _SCREEN.add(line)


def close_line(line: ProgressLine) -> None:
    """Take a line away; one that is not shown is no error."""
    _SCREEN.remove(line)


@contextmanager
def tidy_terminal() -> Iterator[None]:
    """Take away the lines that are opened within the context and not closed, as when a hook's run ends by an error."""
    before = set(_SCREEN.lines)
    try:
        yield
    finally:
        for line in [line for line in _SCREEN.lines if line not in before]:
            _SCREEN.remove(line)


def _tick(ended: threading.Event) -> None:
    while not ended.wait(1.0):
        _SCREEN.draw()


def _render(lines: list[ProgressLine], width: int, ascii_only: bool = False) -> Text:
    """Return the line: where, a bar, what, time left, memory; what does not fit is cut at the end."""
    line, dot, within, full = lines[-1], *(('|', '>', '=') if ascii_only else ('·', '›', '━'))
    seconds, part = None, 0.0
    for one in reversed(lines):  # An inner job is at most one step of the outer one.
        left = one.seconds_left(part)
        seconds = seconds if left is None else left
        part = (one.done + part) / one.total if one.total else 0.0
    fields = {name: value for one in lines for name, value in one.fields.items()}
    parts = [f'{name} {_number(value)}' for name, value in fields.items() if value is not None]
    if seconds is not None:
        parts.append(f'{format_seconds(seconds)} left')
    text = Text().append(f' {within} '.join(one.position() for one in lines), style='bold')
    if width >= _ROOM_FOR_BAR and line.total:
        filled = _BAR * min(line.done, line.total) // line.total
        text.append(' ').append(full * filled, style='green')
        text.append((' ' if ascii_only else full) * (_BAR - filled), style='bright_black')
    text.append(' ').append(f' {dot} '.join(filter(None, [*parts, memory()])))
    text.truncate(width - 1, overflow='crop' if ascii_only else 'ellipsis')
    return text


def _number(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def format_seconds(seconds: float) -> str:
    """Return ``1:02:03``, or ``02:03`` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes:02d}:{seconds:02d}'


def memory() -> str:
    """Return what this process takes of the main memory, and at most took of a GPU; empty where the system hides it."""
    parts = []
    pages = Path('/proc/self/statm')
    if pages.exists():
        parts.append(_size(int(pages.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')))
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        parts.append(f'GPU {_size(torch.cuda.max_memory_allocated())}')
    return ', '.join(parts)


def _size(count: int) -> str:
    return f'{count / 1e9:.1f} GB' if count >= 1e9 else f'{count / 1e6:.0f} MB'


# State of the module, as a process has one terminal: hooks, tools and library calls that know nothing of each other
# nest their lines on it, and handing it through all of them would tie each to how progress is shown.
_SCREEN = Screen(_render)
