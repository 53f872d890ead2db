"""Checkpoints that carry the SHA-256 of themselves.

``torch.load`` looks at the structure of an archive, but not at the check sums of its tensors: one wrong bit in a weight
goes unseen. The seal is the comment at the end of the zip archive, so it is written in one step with what it is the
hash of, moves and goes with it, and every reader of zip archives passes over it.
"""

import hashlib
import os
import re
from pathlib import Path

from mmengine.fileio import register_backend

from .atomic import AtomicLocalBackend, write_atomically

MARK = b'mmlora sha256 '
_DIGITS = 64
_LENGTH = (len(MARK) + _DIGITS).to_bytes(2, 'little')
_END = b'PK\x05\x06'  # The end of an archive is this, 16 bytes, the length of the comment, and the comment.
_END_LENGTH = 22
_LONGEST_END = (1 << 16) + _END_LENGTH  # As far as readers of zip archives look for the end.
_BLOCK = 1 << 20


class SealedLocalBackend(AtomicLocalBackend):
    """Local storage with atomic writes that seals zip archives; registered as ``'mmlora_sealed'``."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes to ``filepath`` in one step, with a seal where they are a zip archive.

        Args:
            obj: The content.
            filepath: The file; missing folders are created.
        """
        write_sealed(filepath, obj)


def write_sealed(path: str | os.PathLike, data: bytes | memoryview) -> Path:
    """Replace the content of a file by a zip archive and its seal, in one step; other content is written as it is.

    Args:
        path: The file.
        data: What ``torch.save`` makes.

    Returns:
        The file that was written, links resolved.

    Raises:
        OSError: The file cannot be written. Its old content is then untouched.
    """
    data = memoryview(data)
    parts = [data]
    if data[-_END_LENGTH : len(_END) - _END_LENGTH] == _END and data[-2:] == b'\0\0':
        parts = [data[:-2], _LENGTH + MARK]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        parts.append(digest.hexdigest().encode())
    return write_atomically(path, lambda file: [file.write(part) for part in parts])


def check_seal(path: str | os.PathLike) -> bool:
    """Check a file against its seal.

    Args:
        path: The file.

    Returns:
        Whether it has one; other programs write none.

    Raises:
        ValueError: The content is not that which was sealed. The message has both hashes, and names the newest file
            beside it whose seal is right.
    """
    written, found = _hashes(path)
    if written != found:
        other = _newest_good(Path(path))
        advice = f'the newest good checkpoint beside it is {other}' if other else 'there is no sealed one beside it'
        raise ValueError(f'{path} is damaged: the SHA-256 of its content is {found}, and it was written with '
                         f'{written}. Copy it again from where it is whole, or use an earlier checkpoint ({advice})')
    return written is not None


def _hashes(path: str | os.PathLike) -> tuple[str | None, str | None]:
    """Return the hash with which a file was sealed, and that of its content; None twice where it has no seal."""
    with open(path, 'rb') as file:
        left = os.fstat(file.fileno()).st_size - _DIGITS
        file.seek(max(left + _DIGITS - _LONGEST_END, 0))
        tail = file.read()
        last = tail[-_DIGITS - len(MARK) - _END_LENGTH :]
        # Any will do: bytes that are wrong or missing in the seal itself, or stand behind it, must not make it look
        # like no seal.
        whole = tail.rfind(_LENGTH + MARK)
        if left < 0 or (whole < 0 and MARK not in last and last[last.rfind(_END) :][20:22] != _LENGTH):
            return None, None
        digest = hashlib.sha256()
        file.seek(0)
        while left and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    start = len(tail) - _DIGITS if whole < 0 else whole + len(_LENGTH + MARK)
    written = tail[start : start + _DIGITS]
    # What else stands there goes into a message, and may hold control characters.
    return written.decode() if re.fullmatch(rb'[0-9a-f]{64}', written) else 'an unreadable seal', digest.hexdigest()


def _newest_good(path: Path) -> Path | None:
    others = [other for other in path.parent.glob('*.pth') if other.is_file() and other != path]
    for other in sorted(others, key=lambda other: other.stat().st_mtime_ns, reverse=True):
        written, found = _hashes(other)
        if written and written == found:
            return other
    return None


register_backend('mmlora_sealed', SealedLocalBackend, force=True)
