"""One process at a time in a folder."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PAUSE = 0.1  # Seconds between two tries.


@contextmanager
def lock_folder(folder: str | os.PathLike, name: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends, however it ends.

    Args:
        folder: The folder; made where it is missing.
        name: Name of the lock file inside; it stays, and tells who held it last.
        wait: Seconds to wait for another process.

    Raises:
        RuntimeError: Another process holds it, or the system has no such locks (Windows).
    """
    if os.name == 'nt':
        raise RuntimeError('sweeps need the file locks and process groups of a POSIX system, which Windows lacks; use '
                           'WSL, or tools/train.py for each run')
    import fcntl

    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() >= end:
                    holder = os.pread(descriptor, 200, 0).decode(errors='replace').strip() or 'an unknown process'
                    raise RuntimeError(f'{folder} is in use by {holder}: wait until it has ended, or give another '
                                       'folder (--work-dir)') from error
                time.sleep(_PAUSE)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f'process {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)
        yield
    finally:
        os.close(descriptor)
