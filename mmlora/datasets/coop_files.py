"""What the files of a set of CoOp say: images, labels and names of classes by split.

Most sets have a split file of CoOp, ``{"train": [["<image>", <label>, "<class>"], ...], "val": ..., "test": ...}``,
which names the classes. FGVC-Aircraft has its official lists. ImageNet and the sets with its classes have folders,
whose names are in ``classnames.txt`` (``n01440764 tench``); for all 1000 those of mmpretrain, which are the same, stand
in. ImageNet has no validation images of its own.

Deviation from the published code: names and labels come from the whole file, not from the drawn training images, in
which a class that they lack would shift the others.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmpretrain.datasets.categories import IMAGENET_SIMPLE_CATEGORIES

from ..plain_json import parse_json
from .class_folder_files import class_folders, images_in, names_of_folders, read_class_names
from .coop_sets import CoOpSet, find_coop_set
from .list_files import ListedImage, check_images_agree, check_name, class_index, read_text

SPLITS = ('train', 'val', 'test')
LABEL_SPACES = ('own', 'imagenet')
_WNID = re.compile(r'n\d{8}')
_NAMES_FILE = 'classnames.txt'


@dataclass(frozen=True)
class NamedSplits:
    """Images by split and names of classes.

    Args:
        classes: Names of the classes in the order of the labels, as files have them.
        place: Folder of the images.
        splits: Returns the images of each split that there is.
        sources: The file or folder of each split.
        without_val: The split that stands in for validation images where there are none and none are drawn; may be
            empty.
    """

    classes: tuple[str, ...]
    place: Path
    splits: Mapping[str, Callable[[], list[ListedImage]]]
    sources: Mapping[str, str]
    without_val: str = ''


def read_coop(folder: Path, coop_set: CoOpSet, label_space: str = 'own') -> NamedSplits:
    """Read the files of a set. Images in folders are listed later, when their split is asked for.

    Args:
        folder: Folder of the set.
        coop_set: The set.
        label_space: ``'own'``, or for a set that has some of ImageNet's classes ``'imagenet'``: its labels are then
            those of all 1000.

    Raises:
        FileNotFoundError: A file or folder is missing; the message says where to get it.
        ValueError: A file cannot be used, or the number of classes is wrong; the message quotes what is wrong.
    """
    if label_space not in LABEL_SPACES:
        raise ValueError(f'label_space={label_space!r} must be one of {", ".join(map(repr, LABEL_SPACES))}')
    if label_space != 'own' and coop_set.reader != 'shift':
        raise ValueError(f'label_space={label_space!r} is for the sets that have classes of ImageNet, not for '
                         f'{coop_set.name}')
    if coop_set.reader == 'shift':
        return _read_shift(folder, coop_set, label_space)
    return _READERS[coop_set.reader](folder, coop_set)


def read_split_file(path: Path, num_classes: int, title: str) -> tuple[dict[str, list[ListedImage]], tuple[str, ...]]:
    """Read a split file of CoOp.

    Args:
        path: The file.
        num_classes: Number of classes that it must have.
        title: What messages call the set.

    Returns:
        The images of each split, and the names of the classes.

    Raises:
        ValueError: It is of another form, a class has two names, or the number of classes is wrong.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f'{path}: not JSON ({error})') from error
    if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in SPLITS):
        raise ValueError(f'{path}: must be an object with the lists {", ".join(SPLITS)}')
    names: dict[int, str] = {}
    splits: dict[str, list[ListedImage]] = {}
    for split in SPLITS:
        splits[split] = [_row(row, number, names, f'{path}, {split}, entry {number}')
                         for number, row in enumerate(content[split], 1)]
        check_images_agree(splits[split], f'{path}, {split}')
    if sorted(names) != list(range(num_classes)):
        missing = sorted(set(range(num_classes)) - set(names))
        what = f'lacks the labels {missing[:5]}' if missing else f'has labels up to {max(names)}'
        raise ValueError(f'{path}: has {len(names)} classes, where {title} has {num_classes}; it {what}: is it the '
                         'file of another set?')
    return splits, tuple(names[label] for label in range(num_classes))


def _row(row: Any, number: int, names: dict[int, str], where: str) -> ListedImage:
    if not isinstance(row, list) or len(row) != 3 or not isinstance(row[0], str) or not isinstance(row[2], str):
        raise ValueError(f'{where}: {json.dumps(row)[:120]} must be ["<image>", <label>, "<class>"]')
    check_name(row[0], where)
    label = class_index(row[1], None, where)
    name = names.setdefault(label, row[2])
    if name != row[2] or not name:
        raise ValueError(f'{where}: class {label} is called {row[2]!r} here and {name!r} before')
    return ListedImage(row[0], label, number)


def _read_json(folder: Path, coop_set: CoOpSet) -> NamedSplits:
    path = _need(folder / coop_set.split_file, coop_set)
    splits, classes = read_split_file(path, coop_set.num_classes, coop_set.title)
    return _listed(folder, coop_set, splits, classes, dict.fromkeys(SPLITS, str(path)))


def _read_aircraft(folder: Path, coop_set: CoOpSet) -> NamedSplits:
    path = _need(folder / coop_set.split_file, coop_set)
    classes = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if len(set(classes)) != coop_set.num_classes:
        raise ValueError(f'{path}: has {len(set(classes))} classes, where {coop_set.title} has '
                         f'{coop_set.num_classes}')
    labels = {name: label for label, name in enumerate(classes)}
    splits, sources = {}, {}
    for split in SPLITS:
        source = _need(folder / f'images_variant_{split}.txt', coop_set)
        splits[split], sources[split] = [], str(source)
        for number, line in enumerate(read_text(source).splitlines(), 1):
            image, _, name = line.strip().partition(' ')
            if not image:
                continue
            if name.strip() not in labels:
                raise ValueError(f'{source}, line {number}: {line[:100]!r} names the variant {name.strip()!r}, which '
                                 f'{path.name} does not have')
            check_name(image, f'{source}, line {number}: {line[:100]!r}')
            splits[split].append(ListedImage(f'{image}.jpg', labels[name.strip()], number))
        check_images_agree(splits[split], source)
    return _listed(folder, coop_set, splits, classes, sources)


def _listed(
    folder: Path, coop_set: CoOpSet, splits: Mapping[str, list[ListedImage]], classes: tuple[str, ...],
    sources: Mapping[str, str],
) -> NamedSplits:
    given = {split: partial(list, images) for split, images in splits.items()}
    return NamedSplits(classes, _place(folder, coop_set), given, sources)


def _read_imagenet(folder: Path, coop_set: CoOpSet) -> NamedSplits:
    places = [folder / below for below in coop_set.image_folders]
    place = next((place for place in places if (place / 'train').is_dir() or (place / 'val').is_dir()), None)
    if place is None:
        raise FileNotFoundError(f'{str(folder)!r} has neither images/train and images/val nor train and val, with the '
                                f'images of {coop_set.title} in folders such as n01440764; see {coop_set.source}')
    below = {'train': 'train', 'test': 'val'}
    found = {split: class_folders(place / name) for split, name in below.items() if (place / name).is_dir()}
    for split, folders in found.items():
        _check_folders(folders, place / below[split], coop_set, _WNID)
    folders = next(iter(found.values()))
    if any(other != folders for other in found.values()):
        raise ValueError(f'{str(place)!r}: train and val have other folders')
    labels = {name: label for label, name in enumerate(folders)}
    splits = {split: partial(images_in, place / below[split], labels, f'{below[split]}/') for split in found}
    sources = {split: str(place / name) for split, name in below.items()}
    return NamedSplits(_imagenet_names(folder, folders), place, splits, sources, without_val='test')


def _read_shift(folder: Path, coop_set: CoOpSet, label_space: str) -> NamedSplits:
    place = folder / coop_set.image_folders[0]
    if not place.is_dir():
        raise FileNotFoundError(f'{coop_set.title}: there is no folder {str(place)!r}; get it from {coop_set.source}')
    folders, numbered = class_folders(place), coop_set.name == 'imagenetv2'
    _check_folders(folders, place, coop_set, re.compile(r'\d{1,3}') if numbered else _WNID)
    if numbered:
        folders = sorted(folders, key=int)
        classes = _imagenet_names(folder, None)
    elif len(folders) == len(IMAGENET_SIMPLE_CATEGORIES):
        classes = _imagenet_names(folder, folders)
    else:
        path = _names_file(folder, coop_set)
        names = read_class_names(path)
        classes = names_of_folders(folders, names, str(path))
        if label_space == 'imagenet':
            every = sorted(names)
            if len(every) != len(IMAGENET_SIMPLE_CATEGORIES):
                raise ValueError(f'{path}: has {len(every)} classes, where the labels of ImageNet need all '
                                 f'{len(IMAGENET_SIMPLE_CATEGORIES)}: copy that of ImageNet there')
            labels = {name: every.index(name) for name in folders}
            classes = tuple(names[name] for name in every)
            return NamedSplits(classes, place, {'test': partial(images_in, place, labels)}, {'test': str(place)})
    labels = {name: label for label, name in enumerate(folders)}
    return NamedSplits(classes, place, {'test': partial(images_in, place, labels)}, {'test': str(place)})


def _imagenet_names(folder: Path, folders: list[str] | None) -> tuple[str, ...]:
    """Return the names of all 1000 classes, whose labels are the places of the sorted folders."""
    path = folder / _NAMES_FILE
    if not path.is_file():
        return IMAGENET_SIMPLE_CATEGORIES
    names = read_class_names(path)
    if len(names) != len(IMAGENET_SIMPLE_CATEGORIES):
        raise ValueError(f'{path}: has {len(names)} classes, where ImageNet has {len(IMAGENET_SIMPLE_CATEGORIES)}')
    return names_of_folders(folders or sorted(names), names, str(path))


def _names_file(folder: Path, coop_set: CoOpSet) -> Path:
    beside = (sibling / _NAMES_FILE for name in find_coop_set('imagenet').folders
              if (sibling := folder.resolve().parent / name).is_dir())
    found = next((path for path in (folder / _NAMES_FILE, *beside) if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f'{coop_set.title}: there is no {str(folder / _NAMES_FILE)!r} with lines such as "n01440764 tench", nor '
            f'one in the folder imagenet beside it: get it from {coop_set.split_source}'
        )
    return found


def _check_folders(folders: list[str], place: Path, coop_set: CoOpSet, form: re.Pattern) -> None:
    odd = next((name for name in folders if not form.fullmatch(name)), None)
    if odd or len(folders) != coop_set.num_classes:
        what = f', such as {odd!r}, which is none' if odd else ''
        raise ValueError(f'{str(place)!r} has {len(folders)} folders{what}, where {coop_set.title} has '
                         f'{coop_set.num_classes} classes')


def _place(folder: Path, coop_set: CoOpSet) -> Path:
    places = [folder / below for below in coop_set.image_folders]
    return next((place for place in places if place.is_dir()), places[0])


def _need(path: Path, coop_set: CoOpSet) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f'{coop_set.title}: there is no {str(path)!r}; get {path.name} from '
                                f'{coop_set.split_source}')
    return path


_READERS: Mapping[str, Callable[[Path, CoOpSet], NamedSplits]] = MappingProxyType(
    {'json': _read_json, 'aircraft': _read_aircraft, 'imagenet': _read_imagenet})
