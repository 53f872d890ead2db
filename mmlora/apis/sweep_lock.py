"""One process at a time in a folder."""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

_PAUSE = 0.1  # Seconds between two tries.
# The last is what some file systems in user space (FUSE) say.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
# Of the whole process, as open files are: after a fork, the copy must find each lock that the process holds, whoever
# took it.
_held: set[int] = set()


@contextmanager
def lock_folder(folder: str | os.PathLike, name: str, wait: float = 0.0, needed: bool = True) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends, however it ends.

    Processes that this one starts, data workers among them, do not hold it: one that outlives it is in nobody's way.

    Args:
        folder: The folder; made where it is missing.
        name: Name of the lock file inside; it stays, and tells who held it last, if it may be written: it may belong to
            another user of the folder.
        wait: Seconds to wait for another process.
        needed: False goes on, with a warning, where the system has no such locks: Windows and some network file
            systems.

    Raises:
        RuntimeError: Another process holds it, or the system has no such locks.
    """
    if os.name == 'nt' and needed:
        raise RuntimeError('sweeps need the file locks and process groups of a POSIX system, which Windows lacks; use '
                           'WSL, or tools/train.py for each run')
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, own = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), True
    except PermissionError:
        if not path.is_file():
            raise
        descriptor, own = os.open(path, os.O_RDONLY), False  # which is enough to lock it
    _held.add(descriptor)
    try:
        if os.name == 'nt' or not _lock(descriptor, folder, wait, needed):
            print_log(f'The file system of {folder} has no locks: see to it yourself that no other process uses it.',
                      logger='current', level=logging.WARNING)
        if own:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
        yield
    finally:
        if descriptor in _held:  # not in a process that was forked meanwhile
            _held.remove(descriptor)
            os.close(descriptor)


def _lock(descriptor: int, folder: str | os.PathLike, wait: float, needed: bool) -> bool:
    """Return whether the system knows such locks; False only where none is needed."""
    import fcntl

    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS and not needed:
                return False
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if time.monotonic() >= end:
                holder = os.pread(descriptor, 200, 0).decode(errors='replace').strip() or 'an unknown process'
                raise RuntimeError(f'{folder} is in use by {holder}: wait until it has ended, or give another '
                                   'folder (--work-dir)') from error
            time.sleep(_PAUSE)


def _let_go() -> None:
    """Close in a forked process what it shares with its parent: the lock would last as long as either lives."""
    while _held:
        os.close(_held.pop())


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_let_go)
