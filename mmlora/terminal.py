"""The terminal of this process: a line at its bottom that is redrawn, while all other output goes above it, unchanged.

What is printed, warned and logged passes through here only as long as a line is shown. rich renders the line.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

SWITCH = 'MMLORA_PROGRESS'
_CLEAR = Control((ControlType.CARRIAGE_RETURN, ), (ControlType.ERASE_IN_LINE, 2))
Render = Callable[[list[Any], int, bool], Text]
"""Gets what is shown, the width of the terminal and whether it knows ASCII alone; returns the line."""


def is_live(stream: TextIO | None = None) -> bool:
    """Say whether a live line may be drawn.

    It is on a terminal that can move its cursor, by the first process of a job, and not where ``CI`` or
    ``MMLORA_PROGRESS=0`` is set.

    Args:
        stream: Where it would be drawn, ``sys.stderr`` by default.
    """
    stream = sys.stderr if stream is None else stream
    if os.environ.get(SWITCH) == '0' or os.environ.get('CI') or os.environ.get('TERM', '') in ('dumb', 'unknown'):
        return False
    return os.environ.get('RANK', '0') == '0' and stream is not None and stream.isatty()


class Above:
    """A stream whose text goes above the live line. It outlives the line, as loggers keep it: then it is the stream."""

    def __init__(self, stream: TextIO, screen: 'Screen') -> None:
        self.stream, self.screen, self.rest = stream, screen, ''

    def write(self, text: str) -> int:
        """Write a text; of a line that is not complete, once it is or the stream is flushed."""
        if not self.screen.is_shown():
            return self.stream.write(text)
        with self.screen.lock:
            # The live line would be drawn over one that is not complete.
            lines, newline, self.rest = (self.rest + text).rpartition('\n')
            if newline:
                self.screen.write(self.stream, lines + newline)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        self.write(''.join(lines))

    def flush(self) -> None:
        """Flush the stream; what of a line is written by then shows, and the live line waits for its end."""
        with self.screen.lock:
            if self.rest and self.screen.is_shown():
                rest, self.rest = self.rest, ''
                self.screen.write(self.stream, rest)
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Screen:
    """The terminal of this process, of which there is one.

    Args:
        render: Makes the line from what is shown.
    """

    def __init__(self, render: Render) -> None:
        self.render, self.lines = render, []
        self.lock = threading.RLock()
        self.terminal: TextIO | None = None
        self._pid = 0
        self._is_open = False  # Whether somebody's line is on the row of the live one.
        self._handlers: list[tuple[logging.StreamHandler, Above]] = []

    def is_shown(self) -> bool:
        """Say whether this process shows a line."""
        # A forked data worker inherits the lines and does not draw them.
        return bool(self.lines) and os.getpid() == self._pid

    def add(self, line: Any) -> None:
        """Show a line behind those that are shown."""
        with self.lock:
            if not self.is_shown():
                self._begin()
            self.lines.append(line)
            self.draw()

    def remove(self, line: Any) -> None:
        """Take a line away; with the last one the terminal is as it was."""
        with self.lock:
            if line not in self.lines:
                return
            shown = self.is_shown()
            self.lines.remove(line)
            if not shown:
                return
            if self.lines:
                self.draw()
            else:
                self._end()

    def _begin(self) -> None:
        self.lines, self._pid, self.terminal, self._is_open = [], os.getpid(), sys.stderr, False
        self._console = Console(file=self.terminal)
        self._streams = {name: Above(getattr(sys, name), self) for name in ('stdout', 'stderr') if self._is_tty(name)}
        for name, above in self._streams.items():
            setattr(sys, name, above)
        originals = {id(above.stream): above for above in self._streams.values()}
        # Loggers keep the stream that they were made with. Those of mmengine are in no list of logging but this one.
        for reference in list(logging._handlerList):
            handler = reference()
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in originals:
                above = originals[id(handler.stream)]
                handler.setStream(above)
                self._handlers.append((handler, above))
        self._console.show_cursor(False)
        atexit.register(self._end)

    def _end(self) -> None:
        with self.lock:
            self.lines = []
            if os.getpid() != self._pid or self.terminal is None:
                return
            atexit.unregister(self._end)
            self._clear()
            self._console.show_cursor(True)
            self.terminal.flush()
            for name, above in self._streams.items():
                if getattr(sys, name) is above:
                    setattr(sys, name, above.stream)
                above.stream.write(above.rest)
                above.rest = ''
            for handler, above in self._handlers:
                if handler.stream is above:
                    handler.setStream(above.stream)
            self._handlers, self.terminal = [], None

    def _is_tty(self, name: str) -> bool:
        stream = getattr(sys, name)
        return stream is not None and stream.isatty()

    def write(self, stream: TextIO, text: str) -> None:
        """Write to a stream, above the live line; after the beginning of a line that one is not drawn until its end."""
        self._clear()
        self.terminal.flush()
        stream.write(text)
        stream.flush()
        # A bar that goes away, as of tqdm, ends with spaces over itself between two returns.
        last = text.rpartition('\n')[2]
        self._is_open = bool(last.rstrip('\r').rpartition('\r')[2].strip()) if last.endswith('\r') else bool(last)
        self.draw()

    def _clear(self) -> None:
        if not self._is_open:
            self._console.control(_CLEAR)

    def draw(self) -> None:
        """Draw the line anew."""
        with self.lock:
            if self.is_shown() and not self._is_open:
                self._console.control(_CLEAR)
                ascii_only = self._console.options.ascii_only
                self._console.print(self.render(self.lines, self._console.width, ascii_only), end='', highlight=False)
                self.terminal.flush()
