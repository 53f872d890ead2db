"""Writing files so that a crash leaves either the old content or the new, never half of one.

The recipe is the usual one: a temporary file in the same folder (so that the rename stays within one file system),
flush and fsync of its content, ``os.replace`` over the target, fsync of the folder so that the rename itself survives
a power cut.
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from mmengine.fileio import LocalBackend, register_backend

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = re.compile(r'\.(.+)\.[0-9a-f]{32}\.tmp', re.DOTALL)
_LONGEST_STEM = 180  # Bytes kept of the target's name; file systems allow 255 for the whole temporary name.


def write_atomically(path: str | os.PathLike, write: Callable[[IO[bytes]], object]) -> Path:
    """Replace the content of a file in one step.

    A missing parent folder is created. A symbolic link stays one: the file that it points to is replaced. The mode of
    an existing file is kept.

    Args:
        path: The file to write.
        write: Called once with a binary file object opened for writing; its return value is ignored.

    Returns:
        The file that was written, links resolved.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        OSError: The disk is full, or the file cannot be written for another reason.
        Exception: Whatever ``write`` raises. The old content is then untouched and no temporary file is left.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f'{os.fspath(path)!r} is a folder, not a file: give the name of a file inside it')
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(target)
    try:
        # Opened by descriptor rather than by `tempfile`: the mode then follows the umask, as for any other file.
        with os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), 'w+b') as file:
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o7777)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OSError(error.errno, f'{target} cannot be written, and is as it was before: {error.strerror}') from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return target


def write_bytes(path: str | os.PathLike, data: bytes) -> Path:
    """Replace the content of a file by ``data``; see :func:`write_atomically`."""
    return write_atomically(path, lambda file: file.write(data))


def write_text(path: str | os.PathLike, text: str, encoding: str = 'utf-8') -> Path:
    """Replace the content of a file by ``text``, line ends as given; see :func:`write_atomically`."""
    return write_bytes(path, text.encode(encoding))


def temporary_of(target: Path) -> Path:
    """Return a new name beside a file, for what will replace it; :func:`remove_leftovers` knows such names."""
    stem = target.name.encode()[:_LONGEST_STEM].decode(errors='ignore')
    return target.parent / f'.{stem}.{uuid.uuid4().hex}.tmp'


def remove_leftovers(folder: str | os.PathLike, names: Collection[str]) -> None:
    """Remove what processes that were killed in the middle of a write have left in a folder; not in those inside it.

    Args:
        folder: The folder.
        names: Patterns, as of :mod:`fnmatch`, of the files that were written. No other process may be writing one.
    """
    for path in Path(folder).iterdir():
        half = _TEMPORARY.fullmatch(path.name)
        if half and any(fnmatchcase(half[1], name) for name in names):
            path.unlink(missing_ok=True)


def is_remote(path: str | os.PathLike) -> bool:
    """Say whether a path is one of remote storage, such as ``s3://bucket/run``; there, nothing here applies."""
    return '://' in os.fspath(path)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local storage with atomic writes.

    Registered as ``'mmlora_atomic'``: ``runner.save_checkpoint(..., backend_args=dict(backend='mmlora_atomic'))`` then
    writes a checkpoint in one step. Reading, copying and removing are inherited.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes to ``filepath`` in one step.

        Args:
            obj: The content.
            filepath: The file; missing folders are created.
        """
        write_bytes(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to ``filepath`` in one step.

        Args:
            obj: The content.
            filepath: The file; missing folders are created.
            encoding: The text's encoding on disk.
        """
        write_text(filepath, obj, encoding)


def _sync_folder(folder: Path) -> None:
    if os.name == 'nt':  # Windows cannot open a folder, and journals renames itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A repeated import (a reload, a second copy on the path) must not fail on the name that the first one registered.
register_backend('mmlora_atomic', AtomicLocalBackend, force=True)
