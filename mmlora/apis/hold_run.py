"""The folder of a run: writable, in the hands of one run at a time, and what to do when its disk is full."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process

from ..io.atomic import DISK_FULL, is_remote, remove_leftovers, temporary_of
from .resuming import POINTER
from .sweep_lock import lock_folder

LOCK = '.train.lock'
_PROBE = 'writable'.ljust(62, 'x')  # Written as .NAME.<32 digits>.tmp: 100 bytes, the most of a run's own files.


@contextmanager
def hold_run(folder: str | os.PathLike, checkpoints: str | os.PathLike | None = None) -> Iterator[None]:
    """Keep the folder of a run for the processes of this run, and explain a full disk.

    The main process does it for all of them; where it cannot, all raise the same.

    Args:
        folder: The work directory; made where it is missing.
        checkpoints: Where checkpoints go, if not there; remote storage is not looked at.

    Raises:
        RuntimeError: Another run is at it.
        PermissionError: Nothing can be written there.
        ValueError: Its name is too long.
        OSError: The disk is full, before the training or in its middle.
    """
    with ExitStack() as stack:
        fault: list[Exception | None] = [None]
        if is_main_process():
            try:
                check_writable(folder)
                if checkpoints and not is_remote(checkpoints):
                    check_writable(checkpoints)
                stack.enter_context(lock_folder(folder, LOCK, needed=False))
            except (OSError, RuntimeError, ValueError) as error:
                fault[0] = error
        broadcast_object_list(fault)
        if fault[0] is not None:
            raise fault[0]
        with explain_full_disk(folder):
            yield


def check_writable(folder: str | os.PathLike) -> None:
    """Write a file into a folder and remove it, so that an error comes before hours of training.

    What a kill has left of such a file before goes, too.

    Args:
        folder: The folder; made where it is missing.

    Raises:
        PermissionError: The folder cannot be written.
        ValueError: Its name is too long for the file system, or one of its parents is a file.
        OSError: The disk is full.
    """
    probe = temporary_of(Path(folder) / _PROBE)
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
        with suppress(PermissionError):  # It may be one of another user.
            remove_leftovers(folder, [_PROBE])
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionError(f'{folder} cannot be written ({error.strerror}): give another folder (--work-dir), '
                                  'or the right to write there to the user that trains') from error
        if error.errno == errno.ENAMETOOLONG:
            longest = max(len(os.fsencode(part)) for part in Path(folder).parts)
            raise ValueError(f'{folder} is too long: with the names of the files inside it has '
                             f'{len(os.fsencode(probe.absolute()))} bytes and its longest part {longest}, where file '
                             'systems mostly allow 4095 and 255. Give a shorter folder (--work-dir)') from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise ValueError(f'{folder} is, or lies below, something else than a folder: give another one '
                             '(--work-dir)') from error
        if error.errno in DISK_FULL:
            raise OSError(error.errno, f'{folder} has no space for even a small file ({error.strerror}): free some, or '
                                       'give a folder on another disk (--work-dir)') from error
        raise


@contextmanager
def explain_full_disk(folder: str | os.PathLike) -> Iterator[None]:
    """Say where there is no space left, and how the run goes on when there is some.

    Args:
        folder: The work directory.

    Raises:
        OSError: As inside the block, with more words where the disk, or a quota, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        pointer = Path(folder) / POINTER
        last = pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else None
        then = f'--resume goes on from {last}' if last else 'start the run again, of which nothing has been saved yet'
        named = f' ({error.filename})' if error.filename else ''
        raise OSError(error.errno, f'{error.strerror}{named}. The run has ended; the file system of {folder} has '
                                   f'{shutil.disk_usage(folder).free:,} bytes free. Free some space, then '
                                   f'{then}') from error
