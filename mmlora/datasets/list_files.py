"""Lists of images and labels in text files, as VTAB-1k and MedFMC publish them.

A line is ``<name> <labels>``. The labels are one class index (``images/test/000000.jpg 13``) or a 0 or 1 for each
class, between commas (``5C2E.png 0,1,0``) or blanks (``13333.png 0 1 0``). Names may hold blanks, so a line is read
from its end: the labels are the words that consist of digits, signs and commas alone.

Blank lines, Windows line ends, a byte order mark and repeated lines are allowed; a repeated line is a repeated sample,
as some published lists intend. Everything else that looks wrong is an error that quotes file, line and content.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# Of a line that is written backwards, so that a search for the first label does not start again at each word.
_LINE = re.compile(r'(?P<labels>(?:[-+,\d]+\s+)*)(?P<name>.+)', re.DOTALL)
_BETWEEN = re.compile(r'\s*,\s*|\s+')
_BAD_NAME = re.compile(r'[A-Za-z]:|/|.*\\|(?:.*/)?\.\.(?:/|$)|.*[\x00-\x1f\x7f\ud800-\udfff]', re.DOTALL)
_INDEX = re.compile(r'[-+]?[0-9]{1,18}')
_SHOWN = 3  # Names that an error lists before it only counts.
_QUOTED = 120  # Characters of a line that an error quotes.
_PATH_BYTES, _NAME_BYTES = 4096, 255  # What file systems take as a path, and as one of its parts.


@dataclass(frozen=True)
class ListedImage:
    """One line of a list.

    Args:
        name: Path of the image below the image folder, with ``/`` between folders.
        label: The class index, or the ascending indices of the classes present in a multi-label list; may be empty.
        line: Number of the line, from 1; in a JSON list the number of the entry.
    """

    name: str
    label: int | tuple[int, ...]
    line: int

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes of the image, whatever the kind of list."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


def quote(value: Any) -> str:
    """Return how an error quotes a value of a file: as Python writes it, cut where it is long."""
    if isinstance(value, str):
        return f'{value[:_QUOTED]!r}{"..." if len(value) > _QUOTED else ""}'
    text = repr(value)
    return f'{text[:_QUOTED]}...' if len(text) > _QUOTED else text


def read_text(path: str | os.PathLike) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not text in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no list {str(path)!r}')
    try:
        return path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not text in UTF-8 ({error}): save the list as UTF-8') from error


def read_list(
    path: str | os.PathLike, num_classes: int | None = None, multi_label: bool = False
) -> list[ListedImage]:
    """Read a list.

    Args:
        path: The file.
        num_classes: Number of classes C; None takes any class index, and the number of labels of the first line.
        multi_label: Whether each line has a 0 or 1 for each class instead of one class index.

    Returns:
        The images in the order of the file, repeated lines included.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, or a line cannot be used; the message quotes it.
    """
    images, path = [], str(path)
    for number, line in enumerate(re.split(r'\r\n|\r|\n', read_text(path)), 1):
        line = line.strip()
        if not line:
            continue
        found = _LINE.fullmatch(line[::-1])
        name, labels = found['name'][::-1], found['labels'][::-1].strip()
        where = f'{path}, line {number}: {quote(line)}'
        words = _BETWEEN.split(labels)
        if not labels:
            _fail(where, f'has no label; a line is "<name> {"0,1,..." if multi_label else "<class index>"}"')
        check_name(name, where)
        if multi_label:
            num_classes = num_classes or len(words)
            label = _multi_hot(words, num_classes, where)
        elif len(words) != 1:
            _fail(where, f'has {len(words)} labels where one class index belongs')
        else:
            label = class_index(words[0], num_classes, where)
        images.append(ListedImage(name, label, number))
    check_images_agree(images, path)
    return images


def check_name(name: str, where: str) -> None:
    """Check that a name stays inside the image folder.

    Args:
        name: The name as the list has it.
        where: How an error quotes the place.

    Raises:
        ValueError: The name is empty or absolute, has a drive, ``..``, backslashes or characters that no text has, or
            is longer than file systems take.
    """
    if not name:
        _fail(where, 'has no image name')
    if not _BAD_NAME.match(name):
        return _check_length(name, where)
    if re.match(r'[A-Za-z]:', name):
        _fail(where, f'names a Windows drive in {quote(name)}; names are relative to the image folder')
    if '\\' in name:
        _fail(where, f'has a backslash in {quote(name)}; write / between folders')
    if name.startswith('/'):
        _fail(where, f'has the absolute path {quote(name)}; names are relative to the image folder')
    if re.match(r'(?:.*/)?\.\.(?:/|$)', name, re.DOTALL):
        _fail(where, f'leaves the image folder by .. in {quote(name)}')
    _fail(where, f'has a control character or half of a character in {quote(name)}')


def class_index(word: str | int, num_classes: int | None, where: str) -> int:
    """Read a class index.

    Args:
        word: The index, as text or number.
        num_classes: Number of classes C; None allows any.
        where: How an error quotes the place.

    Raises:
        ValueError: It is not a whole number in 0..C-1.
    """
    if isinstance(word, bool) or not _INDEX.fullmatch(str(word)):
        _fail(where, f'has the label {quote(word)} where a class index belongs')
    index = int(word)
    if index < 0 or (num_classes is not None and index >= num_classes):
        limit = '0' if num_classes is None else f'0..{num_classes - 1} ({num_classes} classes)'
        _fail(where, f'has the label {index}, outside of {limit}' if num_classes else f'has the label {index} below 0')
    return index


def check_images_agree(images: Sequence[ListedImage], path: str | os.PathLike) -> None:
    """Check that a list has images, and the same labels wherever it repeats one.

    Raises:
        ValueError: The list is empty, or two lines of one image disagree.
    """
    if not images:
        raise ValueError(f'{path}: the list is empty')
    first: dict[str, ListedImage] = {}
    for image in images:
        known = first.setdefault(image.name, image)
        if known.label != image.label:
            _fail(f'{path}, line {image.line}: {quote(image.name)}',
                  f'has the label {image.label}, but {known.label} in line {known.line}')


def repeated(images: Iterable[ListedImage]) -> int:
    """Count the lines that repeat an earlier image."""
    names = [image.name for image in images]
    return len(names) - len(set(names))


def missing_images(folder: str | os.PathLike, names: Iterable[str]) -> list[str]:
    """Find the images that a folder lacks.

    Each folder is listed once, which network disks answer far faster than a question for each image.

    Args:
        folder: The image folder.
        names: Names below it.

    Returns:
        The missing names, each once, in the order of ``names``.
    """
    folder = Path(folder)
    known: dict[str, set[str] | None] = {}
    missing = []
    for name in dict.fromkeys(names):
        parent, _, base = name.rpartition('/')
        if parent not in known:
            known[parent] = _names_in(folder / parent)
        # Disks that ignore case or rewrite accents list a name in other letters than the ones that open it.
        if known[parent] is None or (base not in known[parent] and not (folder / name).is_file()):
            missing.append(name)
    return missing


def check_images_exist(folder: str | os.PathLike, names: Iterable[str], path: str | os.PathLike) -> None:
    """Check that a folder has the images of a list; see :func:`missing_images`.

    Args:
        folder: The image folder.
        names: Names below it.
        path: The list, for the message.

    Raises:
        FileNotFoundError: Images are missing; the message counts them and names the first few.
    """
    names = list(dict.fromkeys(names))
    missing = missing_images(folder, names)
    if missing:
        more = ', ...' if len(missing) > _SHOWN else ''
        lacking = 'are not in' if Path(folder).is_dir() else 'cannot be found, as there is no folder'
        raise FileNotFoundError(
            f'{len(missing)} of the {len(names)} images of {path} {lacking} {str(folder)!r}: '
            f'{", ".join(missing[:_SHOWN])}{more}'
        )


def _names_in(folder: Path) -> set[str] | None:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_length(name: str, where: str) -> None:
    path, part = len(name.encode()), max(len(part.encode()) for part in name.split('/'))
    if path > _PATH_BYTES or part > _NAME_BYTES:
        _fail(where, f'has a name of {path} bytes with a part of {part}; paths have up to {_PATH_BYTES} bytes and '
                     f'their parts up to {_NAME_BYTES}')


def _multi_hot(words: Sequence[str], num_classes: int, where: str) -> tuple[int, ...]:
    if len(words) != num_classes:
        _fail(where, f'has {len(words)} labels where {num_classes} belong, one for each class')
    wrong = [word for word in words if word not in ('0', '1')]
    if wrong:
        _fail(where, f'has the label {quote(wrong[0])} where each must be 0 or 1')
    return tuple(index for index, word in enumerate(words) if word == '1')


def _fail(where: str, what: str) -> NoReturn:
    raise ValueError(f'{where} {what}')
