"""A look at one data set: counts, labels, missing files, images that cannot be prepared, copies of images."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..datasets.list_files import missing_images
from .data_report import SHOWN, DataReport, LoaderReport, sides
from .labels import (
    declared_classes,
    describe_dataset,
    image_infos,
    label_classes,
    label_problem,
    plain_datasets,
)
from .prepared_images import prepare_images

_EXAMPLES = 3  # Images whose labels are told.
_CHUNK = 1 << 20  # Bytes of a file that are read at once.


def inspect_dataset(
    name: str,
    dataset: Any,
    report: DataReport,
    *,
    num_classes: int | None = None,
    img_size: tuple[int, ...] | None = None,
    batched: bool = True,
    read_all: bool = False,
) -> LoaderReport:
    """Look at a data set, and add to a report what has to be mended or known.

    Args:
        name: What messages call the data set: the loader, or the split.
        dataset: The data set, in wrappers or not.
        report: The report that problems and notes are added to; the data set's own report is not.
        num_classes: Number of outputs of the model's head, if there is one.
        img_size: Height and width that the model takes, if known.
        batched: Whether prepared images go into batches, so that they need one size.
        read_all: Whether to read all images; otherwise the first.

    Returns:
        The data set's own report.
    """
    plain = list(plain_datasets(dataset))
    own = LoaderReport(name, [describe_dataset(part) for part in plain])
    for part in plain:
        _count(part, own)
        problem = label_problem(part, num_classes) if num_classes else None
        if problem:
            report.problems.append(f'{name}: {problem}')
        elif num_classes and own.num_classes not in (None, num_classes):
            report.notes.append(f'{name}: {describe_dataset(part)} has {own.num_classes} classes, and '
                                f'model.head.num_classes={num_classes} has outputs to spare')
    local = sorted(path for path in own.files if '://' not in path)
    missing = missing_images('', local)
    if missing:
        more = ', ...' if len(missing) > SHOWN else ''
        report.problems.append(f'{name}: {len(missing)} of {len(local)} images are missing: '
                               f'{", ".join(missing[:SHOWN])}{more}')
    elif len(dataset):
        _read(own, plain, report, img_size, batched, read_all)
    else:
        report.problems.append(f'{name}: {", ".join(own.sources)} has no images')
    return own


def note_equal_content(loaders: Sequence[LoaderReport], report: DataReport) -> None:
    """Note which images are copies of others, byte by byte. Published data sets have such, so it is no problem.

    Args:
        loaders: The data sets; one that has missing images is passed over.
        report: The report that notes are added to.
    """
    known: dict[str, bytes] = {}
    for own in loaders:
        for path in sorted(own.files - known.keys()):
            if os.path.isfile(path):
                known[path] = _digest(path)
    for number, own in enumerate(loaders):
        contents = _by_content(own.files, known)
        copies = [paths for paths in contents.values() if len(paths) > 1]
        if copies:
            report.notes.append(f'{own.loader}: {sum(map(len, copies)) - len(copies)} images have the content of '
                                f'another one, such as {" and ".join(sorted(copies[0])[:2])}')
        for other in loaders[number + 1:]:
            twins = [(paths, contents[key]) for key, paths in _by_content(other.files - own.files, known).items()
                     if set(contents.get(key, ())) - other.files]
            if twins:
                first, second = min(twins[0][0]), min(set(twins[0][1]) - other.files)
                report.notes.append(f'{sum(len(paths) for paths, _ in twins)} images of {other.loader} have the '
                                    f'content of images of {own.loader} under another name, such as {first} and '
                                    f'{second}')


def _digest(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()


def _by_content(paths: Iterable[str], known: Mapping[str, bytes]) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for path in sorted(paths):
        if path in known:
            found.setdefault(known[path], []).append(path)
    return found


def _count(dataset: Any, own: LoaderReport) -> None:
    own.num_classes = declared_classes(dataset) or own.num_classes
    own.names = tuple((getattr(dataset, 'metainfo', None) or {}).get('classes') or own.names)
    own.images += len(dataset)
    real = cache(os.path.realpath)
    shown = {len(dataset) * number // _EXAMPLES for number in range(_EXAMPLES)} if not own.examples else set()
    for number, info in enumerate(image_infos(dataset)):
        classes = label_classes(info)
        own.per_class.update(classes or ())
        own.unlabelled += classes is None
        own.multi_label |= classes is not None and np.ndim(info['gt_label']) == 1
        own.without_class += classes == ()
        path = info.get('img_path')
        if isinstance(path, str):
            folder, name = os.path.split(path)
            key = path if '://' in path else f'{real(folder)}/{name}'.replace(os.sep, '/')
            own.repeated += key in own.files
            own.files.add(key)
            if number in shown and classes is not None:
                own.examples.append(f'{name} is {_words(classes, own.names)}')


def _words(classes: Sequence[int], names: Sequence[str]) -> str:
    told = [f'{label} ({names[label]})' if 0 <= label < len(names) else str(label) for label in classes]
    return ', '.join(told) or 'of no class'


def _read(
    own: LoaderReport,
    plain: list[Any],
    report: DataReport,
    img_size: tuple[int, ...] | None,
    batched: bool,
    read_all: bool,
) -> None:
    prepared = prepare_images(plain, read_all)
    own.read, own.shape = prepared.read, next(iter(prepared.shapes), None)
    if not read_all:
        report.problems += [f'{own.loader}: its first image cannot be prepared: {path}: {error}'
                            for path, error in prepared.failed.items()]
    elif prepared.failed:
        report.problems.append(f'{own.loader}: {len(prepared.failed)} images cannot be prepared:' + ''.join(
            f'\n  {path}: {error}' for path, error in prepared.failed.items()))
    if batched and len(prepared.shapes) > 1:
        report.notes.append(f'{own.loader}: prepared images have {len(prepared.shapes)} sizes, such as '
                            f'{" and ".join(map(sides, prepared.shapes[:2]))}, and a batch needs one')
    if own.shape and img_size and own.shape[-2:] != img_size:
        report.notes.append(f'{own.loader}: the prepared image is {sides(own.shape[-2:])}, and '
                            f'model.backbone.img_size says {sides(img_size)}')
