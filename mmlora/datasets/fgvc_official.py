"""The official annotation files of the FGVC sets.

* CUB-200-2011 and NABirds: ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt``, each line an id and a
  value, and ``classes.txt``. NABirds numbers a tree of 1011 nodes (``hierarchy.txt``) and labels images with 555 of
  them, so that its ids have gaps.
* Oxford Flowers: ``imagelabels.mat`` and ``setid.mat``, for images ``jpg/image_00001.jpg``.
* Stanford Dogs: ``train_list.mat`` and ``test_list.mat``.
* Stanford Cars: ``cars_train_annos.mat``, ``cars_test_annos_withlabels.mat`` and ``cars_meta.mat`` for images in
  ``cars_train`` and ``cars_test``, or ``cars_annos.mat`` for images in ``car_ims``.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from .fgvc_sets import FGVCSet
from .list_files import ListedImage, check_images_agree, check_name, read_text

_LIST_FOLDERS = ('', 'devkit', 'lists', 'splits')
_SHOWN = 100  # Characters of a line that an error quotes.


@dataclass(frozen=True)
class OfficialFiles:
    """What official files hold.

    Args:
        splits: Images by split (``train``, ``test`` and, where it is official, ``val``); labels are the official ids.
            A split whose file is missing is left out.
        sources: The file of each split, also of one that is missing.
        class_ids: The official ids of the classes, ascending.
        classes: Names of the classes in that order; may be empty.
    """

    splits: Mapping[str, list[ListedImage]]
    sources: Mapping[str, Path]
    class_ids: tuple[int, ...]
    classes: tuple[str, ...] = ()


def find_list(folder: Path, name: str) -> Path | None:
    """Find an annotation file in the folder of a set, or in the folders into which archives unpack it, or None."""
    return next((path for below in _LIST_FOLDERS if (path := folder / below / name).is_file()), None)


def read_official(folder: Path, fgvc_set: FGVCSet) -> OfficialFiles:
    """Read the official files of a set.

    Args:
        folder: Folder of the set.
        fgvc_set: The set.

    Raises:
        FileNotFoundError: A file is missing without which nothing can be said.
        ValueError: A file cannot be used, or has a class id that the set does not have; the message quotes it.
    """
    return _READERS[fgvc_set.name](folder, fgvc_set)


def class_name(folder: str) -> str:
    """Return the name of a class from that of its folder, such as ``001.Black_footed_Albatross``."""
    return re.sub(r'^(\d+\.|n\d{8}-)', '', folder)


def read_class_table(path: Path) -> dict[int, str]:
    """Read ``classes.txt``: names by id."""
    return {_number(number, where): name for number, name, where in _rows(path)}


def _birds(folder: Path, fgvc_set: FGVCSet, tree: bool = False) -> OfficialFiles:
    source, images_file, labels_file, classes_file = (_need(folder, name) for name in fgvc_set.official)
    names = {key: (name, where) for key, name, where in _rows(images_file)}
    labels = {key: _number(text, where) for key, text, where in _rows(labels_file)}
    trained = {key: _number(text, where) for key, text, where in _rows(source)}
    for path, keys in ((labels_file, labels), (source, trained)):
        odd = sorted(names.keys() ^ keys.keys())
        if odd:
            raise ValueError(f'{images_file} and {path} do not belong together: {len(odd)} ids are in one of them '
                             f'alone, such as {odd[0]!r}')
    table = read_class_table(classes_file)
    splits: dict[str, list[ListedImage]] = {'train': [], 'test': []}
    for number, (key, (name, where)) in enumerate(names.items(), 1):
        check_name(name, where)
        _check_id(labels[key], table, f'{labels_file}: {key} {labels[key]}', classes_file)
        if trained[key] not in (0, 1):
            raise ValueError(f'{source}: {key!r} has {trained[key]} where 1 means train and 0 test')
        splits['train' if trained[key] else 'test'].append(ListedImage(name, labels[key], number))
    # A tree also names its inner nodes, which no image has.
    used = sorted(set(labels.values()) if tree else table)
    return OfficialFiles(splits, dict.fromkeys(splits, source), tuple(used),
                         tuple(class_name(table[number]) for number in used))


def _flowers(folder: Path, fgvc_set: FGVCSet) -> OfficialFiles:
    labels_file, source = (_need(folder, name) for name in fgvc_set.official)
    (labels,) = _matrices(labels_file, 'labels')
    ids = tuple(range(1, fgvc_set.num_classes + 1))
    splits = {}
    for split, members in zip(('train', 'val', 'test'), _matrices(source, 'trnid', 'valid', 'tstid'), strict=True):
        images = splits.setdefault(split, [])
        for number in map(int, members):
            if not 1 <= number <= len(labels):
                raise ValueError(f'{source}: image {number} of {split} is outside of 1..{len(labels)}, which '
                                 f'{labels_file.name} has')
            _check_id(int(labels[number - 1]), ids, f'{labels_file}: image {number}')
            images.append(ListedImage(f'jpg/image_{number:05d}.jpg', int(labels[number - 1]), number))
    return OfficialFiles(splits, dict.fromkeys(splits, source), ids)


def _dogs(folder: Path, fgvc_set: FGVCSet) -> OfficialFiles:
    ids = tuple(range(1, fgvc_set.num_classes + 1))
    splits, sources = {}, {}
    for split, name in zip(('train', 'test'), fgvc_set.official, strict=True):
        sources[split] = find_list(folder, name) or folder / name
        if sources[split].is_file() or split == 'train':
            names, labels = _matrices(_need(folder, name), 'file_list', 'labels')
            splits[split] = _pairs(names, labels, ids, sources[split])
    return OfficialFiles(splits, sources, ids)


def _cars(folder: Path, fgvc_set: FGVCSet) -> OfficialFiles:
    both = find_list(folder, 'cars_annos.mat')
    train, test, meta = (find_list(folder, name) for name in fgvc_set.official)
    classes: tuple[str, ...] = ()
    if both or meta:
        classes = tuple(str(name) for name in _matrices(meta or both, 'class_names')[0])
    ids = tuple(range(1, (len(classes) or fgvc_set.num_classes) + 1))
    if both and (train is None or not (folder / 'cars_train').is_dir()):
        (rows,) = _matrices(both, 'annotations')
        names, labels, tested = _fields(both, rows, 'relative_im_path', 'class', 'test')
        images = _pairs(names, labels, ids, both)
        splits = {split: [image for image, flag in zip(images, tested, strict=True) if bool(flag) == (split == 'test')]
                  for split in ('train', 'test')}
        return OfficialFiles(splits, dict.fromkeys(splits, both), ids, classes)
    sources = dict(train=_need(folder, fgvc_set.official[0]), test=test or folder / 'devkit' / fgvc_set.official[1])
    splits = {}
    for split in ('train', *(['test'] if test else [])):
        (rows,) = _matrices(sources[split], 'annotations')
        names, labels = _fields(sources[split], rows, 'fname', 'class')
        splits[split] = _pairs([f'cars_{split}/{name}' for name in names], labels, ids, sources[split])
    return OfficialFiles(splits, sources, ids, classes)


_READERS: Mapping[str, Callable[[Path, FGVCSet], OfficialFiles]] = MappingProxyType(
    dict(cub=_birds, nabirds=partial(_birds, tree=True), flowers=_flowers, dogs=_dogs, cars=_cars))


def _need(folder: Path, name: str) -> Path:
    path = find_list(folder, name)
    if path is None:
        raise FileNotFoundError(f'there is no {name!r} in {str(folder)!r}, nor in its folders '
                                f'{", ".join(filter(None, _LIST_FOLDERS))}; docs/datasets.md tells how to get it')
    return path


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    seen: set[str] = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        where = f'{path}, line {number}: {line[:_SHOWN]!r}'
        key, _, value = line.partition(' ')  # Names of images and classes may hold blanks, ids do not.
        if not value.strip():
            raise ValueError(f'{where} has one word, where a line is an id, a blank and a value')
        if key in seen:
            raise ValueError(f'{where} has the id {key!r}, which an earlier line has too')
        seen.add(key)
        yield key, value.strip(), where


def _number(text: str, where: str) -> int:
    if not re.fullmatch(r'[0-9]{1,18}', text):
        raise ValueError(f'{where} has {text[:_SHOWN]!r} where a whole number belongs')
    return int(text)


def _check_id(number: int, known: Mapping[int, Any] | Sequence[int], where: str, source: Path | None = None) -> None:
    if number not in known:
        which = f'which {source.name} does not have' if source else f'outside of {min(known)}..{max(known)}'
        raise ValueError(f'{where} has the class id {number}, {which}')


def _pairs(names: Sequence[Any], labels: Sequence[Any], ids: Sequence[int], path: Path) -> list[ListedImage]:
    if len(names) != len(labels):
        raise ValueError(f'{path}: has {len(names)} images and {len(labels)} labels')
    images, known = [], frozenset(ids)
    for number, (name, label) in enumerate(zip(map(str, names), map(int, labels), strict=True), 1):
        where = f'{path}, image {number}: {name!r}'
        check_name(name, where)
        _check_id(label, known, where)
        images.append(ListedImage(name, label, number))
    check_images_agree(images, path)
    return images


def _matrices(path: Path, *names: str) -> list[np.ndarray]:
    from scipy.io import loadmat  # its import is slow, and few processes read such a file
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(str(path), squeeze_me=True)
    except (ValueError, TypeError, KeyError, NotImplementedError, OSError, MatReadError, zlib.error) as error:
        raise ValueError(f'{path}: cannot be read as a MATLAB file ({error}): get it again, and save it as version 7 '
                         'or older') from error
    lacking = [name for name in names if name not in found]
    if lacking:
        has = ', '.join(name for name in found if not name.startswith('__'))
        raise ValueError(f'{path}: has no variable {lacking[0]!r}, but {has or "none"}')
    return [np.atleast_1d(found[name]) for name in names]


def _fields(path: Path, rows: np.ndarray, *names: str) -> list[np.ndarray]:
    has = rows.dtype.names or ()
    lacking = [name for name in names if name not in has]
    if lacking:
        raise ValueError(f'{path}: its annotations have no field {lacking[0]!r}, but {", ".join(has) or "none"}; test '
                         'labels are in cars_test_annos_withlabels.mat')
    return [rows[name] for name in names]
