"""Images in one folder per class, and files that say what the classes are called."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..plain_json import parse_json
from .list_files import ListedImage, quote, read_text

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
_SHOWN = 5  # Folders that an error lists.


def class_folders(place: Path) -> list[str]:
    """Return the names of the folders, sorted; hidden ones are left out.

    Raises:
        FileNotFoundError: There is no such place.
    """
    if not place.is_dir():
        raise FileNotFoundError(f'there is no folder {str(place)!r}, which should hold one folder of images per class')
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.'))


def images_in(place: Path, labels: Mapping[str, int], prefix: str = '') -> list[ListedImage]:
    """List the images of folders, class by class, each class in the order of its names.

    Args:
        place: What holds the folders.
        labels: Label of each folder; a folder that is not there has no images.
        prefix: What names begin with, such as ``'train/'``.

    Raises:
        ValueError: There are none.
    """
    images: list[ListedImage] = []
    for folder, label in sorted(labels.items(), key=lambda item: item[1]):
        if not (place / folder).is_dir():
            continue
        with os.scandir(place / folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES))
        start = len(images) + 1
        images += [ListedImage(f'{prefix}{folder}/{name}', label, start + i) for i, name in enumerate(names)]
    if not images:
        raise ValueError(f'{str(place)!r} has no images in folders of classes; a name ends in '
                         f'{", ".join(IMAGE_SUFFIXES)}')
    return images


def read_class_names(path: Path) -> dict[str, str]:
    """Read the name of each folder: JSON ``{"n01440764": "tench"}``, or text with lines ``n01440764 tench``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another form, or has no names.
    """
    text = read_text(path)
    if path.suffix.lower() == '.json':
        try:
            found = parse_json(text)
        except ValueError as error:
            raise ValueError(f'{path}: not JSON ({error})') from error
        if not isinstance(found, dict) or not all(isinstance(name, str) and name for name in found.values()):
            raise ValueError(f'{path}: must be an object like {{"n01440764": "tench"}}')
        names = found
    else:
        names = {}
        for number, line in enumerate(text.splitlines(), 1):
            folder, _, name = line.strip().partition(' ')
            if folder and not name.strip():
                raise ValueError(f'{path}, line {number}: {line[:100]!r} has no name; a line is "<folder> <name>"')
            if folder and names.setdefault(folder, name.strip()) != name.strip():
                raise ValueError(f'{path}, line {number}: {quote(folder)} is {quote(names[folder])} above and '
                                 f'{quote(name.strip())} here')
    if not names:
        raise ValueError(f'{path}: has no names')
    return names


def names_of_folders(folders: Sequence[str], names: Mapping[str, str], source: str) -> tuple[str, ...]:
    """Return the name of each folder.

    Args:
        folders: The folders.
        names: Names by folder; further folders do not matter.
        source: Where the names come from, for the message.

    Raises:
        ValueError: A folder has no name.
    """
    without = [folder for folder in folders if folder not in names]
    if without:
        more = f', ... {len(without)} in all' if len(without) > _SHOWN else ''
        raise ValueError(f'{source} has no name for the folders {", ".join(without[:_SHOWN])}{more}: add them')
    return tuple(names[folder] for folder in folders)
