"""Lists of images and labels in CSV tables and JSON files, checked as those of :mod:`.list_files` are."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..plain_json import parse_json
from .list_files import ListedImage, check_images_agree, check_name, class_index, quote, read_text


def read_csv(
    path: str | os.PathLike,
    num_classes: int,
    classes: Sequence[str] = (),
    multi_label: bool = False,
    columns: tuple[str, str] = ('image', 'label'),
    separator: str = '|',
) -> list[ListedImage]:
    """Read a table whose first row names the columns.

    Labels are names or indices in one column, several of them separated by ``separator`` with ``multi_label``. A
    multi-label table may have a column of 0 and 1 for each class instead.

    Args:
        path: The file.
        num_classes: Number of classes C.
        classes: Their names.
        multi_label: Whether images have any number of classes.
        columns: Names of the columns of the image and of the label.
        separator: What stands between several labels.

    Returns:
        The images in the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, the file is empty, or a row cannot be used; the message quotes it.
    """
    rows = csv.DictReader(io.StringIO(read_text(path), newline=''), strict=True)
    image_column, label_column = columns
    header = _header(rows, path)
    one_column_each = multi_label and label_column not in header and bool(classes) and set(classes) <= set(header)
    missing = [name for name in ((image_column,) if one_column_each else columns) if name not in header]
    if missing:
        raise ValueError(f'{path}: has no column {missing[0]!r} but {", ".join(map(repr, header)) or "is empty"}; the '
                         'first row names the columns, and columns=(image, label) says which to read')
    images = []
    for row in _rows(rows, path):
        where = f'{path}, line {rows.line_num}: {quote(row[image_column])}'
        if None in row or None in row.values():
            raise ValueError(f'{where} has another number of fields than the {len(header)} of the first row')
        check_name(row[image_column], where)
        if one_column_each:
            wrong = [name for name in classes if row[name].strip() not in ('0', '1')]
            if wrong:
                raise ValueError(f'{where} has {row[wrong[0]]!r} in column {wrong[0]!r}, which must be 0 or 1')
            label = tuple(index for index, name in enumerate(classes) if row[name].strip() == '1')
        else:
            text = row[label_column].strip()
            words = [word.strip() for word in text.split(separator)] if text else []
            label = _label(words if multi_label else text, num_classes, classes, multi_label, where)
        images.append(ListedImage(row[image_column], label, rows.line_num))
    check_images_agree(images, path)
    return images


def read_json(
    path: str | os.PathLike,
    num_classes: int,
    classes: Sequence[str] = (),
    multi_label: bool = False,
    columns: tuple[str, str] = ('image', 'label'),
) -> list[ListedImage]:
    """Read a list of objects such as ``{"image": "a.png", "label": "cat"}``.

    A label is a name or an index, with ``multi_label`` a list of them.

    Args:
        path: The file.
        num_classes: Number of classes C.
        classes: Their names.
        multi_label: Whether images have any number of classes.
        columns: Keys of the image and of the label.

    Returns:
        The images in the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another form, or an entry cannot be used; the message quotes it.
    """
    text = read_text(path)
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise ValueError(f'{path}: not JSON ({error})') from error
    if isinstance(entries, Mapping) and 'data_list' in entries:
        stock = 'MultiLabelDataset' if multi_label else 'BaseDataset'
        raise ValueError(f'{path}: has the form that mmpretrain reads itself: use type={stock!r}')
    if not isinstance(entries, list):
        raise ValueError(f'{path}: must be a list of objects like {{"image": "a.png", "label": 0}}')
    image_key, label_key = columns
    images = []
    for number, entry in enumerate(entries, 1):
        where = f'{path}, entry {number}: {json.dumps(entry)[:120]}'
        if not isinstance(entry, Mapping) or image_key not in entry or label_key not in entry:
            raise ValueError(f'{where} must be an object with the keys {image_key!r} and {label_key!r}')
        name, label = entry[image_key], entry[label_key]
        if not isinstance(name, str):
            raise ValueError(f'{where} has an image that is not text')
        check_name(name, where)
        if multi_label != isinstance(label, list):
            raise ValueError(f'{where}: ' + (
                f'multi_label=True needs a list of labels, such as {json.dumps([label])}' if multi_label else
                'its label is a list, which is for images with any number of classes: set multi_label=True, or write '
                'one label without brackets'))
        images.append(ListedImage(name, _label(label, num_classes, classes, multi_label, where), number))
    check_images_agree(images, path)
    return images


def _header(rows: csv.DictReader, path: str | os.PathLike) -> Sequence[str]:
    with explain_bad_csv(rows, path):
        return rows.fieldnames or ()


def _rows(rows: csv.DictReader, path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    with explain_bad_csv(rows, path):
        yield from rows


@contextmanager
def explain_bad_csv(rows: csv.DictReader, path: str | os.PathLike) -> Iterator[None]:
    """Raise a ``ValueError`` that names file and line in place of errors of Python's reader."""
    try:
        yield
    except csv.Error as error:
        raise ValueError(f'{path}, line {rows.line_num or 1}: not a CSV table ({error})') from error


def _label(value: Any, num_classes: int, classes: Sequence[str], several: bool, where: str) -> int | tuple[int, ...]:
    if not several:
        return _one_label(value, num_classes, classes, where)
    labels = [_one_label(word, num_classes, classes, where) for word in value]
    if len(set(labels)) < len(labels):
        raise ValueError(f'{where} has a label twice')
    return tuple(sorted(labels))


def _one_label(word: Any, num_classes: int, classes: Sequence[str], where: str) -> int:
    if word in classes:  # A class may be called "7": its name comes before an index.
        return classes.index(word)
    if isinstance(word, str) and not word.lstrip('+-').isdigit():
        known = f'the classes are {", ".join(classes[:8])}{", ..." if len(classes) > 8 else ""}' if classes else (
            'no classes=[...] are given')
        raise ValueError(f'{where} has the label {quote(word)}; {known}')
    return class_index(word, num_classes, where)
