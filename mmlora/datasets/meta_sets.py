"""The eight sets of LoRA-Recycle (Hu et al., CVPR 2025): which images they have, from the files as they are published.

Four are split by classes, for meta-training, validation and tests; ``data_splits/lora_recycle/`` lists the classes of
each split and their source. The other four are tested as a whole (BSCD-FSL, Guo et al., ECCV 2020).
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .class_folder_files import IMAGE_SUFFIXES, class_folders, images_in
from .fgvc_files import find_image_folder, read_fgvc
from .fgvc_sets import find_fgvc_set
from .list_files import ListedImage, check_name, read_text
from .set_names import find_set, spellings_of
from .split_files import load_split
from .table_files import explain_bad_csv

META_SPLITS = ('meta_train', 'meta_val', 'meta_test')
WHOLE = 'all'
"""The one split of the sets that are tested as a whole."""

Labelled = Mapping[str, Sequence[str]]
"""Images below the folder of a set, by class."""


def _folders(root: Path, classes: Sequence[str]) -> Labelled:
    """Read one folder of images per class, below the root or below a folder for each split."""
    places = [root, *(root / split for split in META_SPLITS)]
    found = {}
    for name in classes:
        place = next((place for place in places if (place / name).is_dir()), None)
        if place is None:
            raise FileNotFoundError(f'{str(root)!r} has no folder {name!r} of images, nor have its folders '
                                    f'{", ".join(META_SPLITS)}')
        prefix = '' if place == root else f'{place.name}/'
        found[name] = [image.name for image in images_in(place, {name: 0}, prefix)]
    return found


def _birds(root: Path, classes: Sequence[int]) -> Labelled:
    """Read CUB, whose classes are the places of its 200 folders in the order of their names."""
    place = root / 'images' if (root / 'images').is_dir() else root
    folders = class_folders(place)
    if len(folders) != 200:
        raise ValueError(f'{str(place)!r} has {len(folders)} folders, and CUB-200-2011 has 200: the classes of the '
                         'splits are places among them')
    prefix = '' if place == root else 'images/'
    return {folders[number]: [image.name for image in images_in(place, {folders[number]: 0}, prefix)]
            for number in classes}


def _flowers(root: Path, classes: Sequence[int]) -> Labelled:
    """Read Oxford Flowers 102 in the layouts of FGVC, all splits together, in the order of the files."""
    flowers = find_fgvc_set('flowers')
    files = read_fgvc(root, flowers)
    unique = {image.name: image for images in files.splits.values() for image in images}
    place = find_image_folder(root, flowers, list(unique.values()))
    prefix = place.relative_to(root).as_posix() + '/' if place != root else ''
    names: dict[int, list[str]] = {label: [] for label in classes}
    for name in sorted(unique):
        if unique[name].label in names:
            names[unique[name].label].append(prefix + name)
    return {str(label + 1): names[label] for label in classes}


def _skin(root: Path, classes: Sequence[str]) -> Labelled:
    """Read ISIC 2018, task 3: a table with a column for each class, of which one is 1."""
    path = _find(root, 'ISIC2018_Task3_Training_GroundTruth.csv')
    place = _place(root, 'ISIC2018_Task3_Training_Input')
    names: dict[str, list[str]] = {name: [] for name in classes}
    for number, row in _rows(path, ['image', *classes]):
        try:
            scores = [float(row[name]) for name in classes]
        except (TypeError, ValueError):
            wanted = ', '.join(classes)
            raise ValueError(f'{path}, line {number}: {row} must have a number for each of {wanted}') from None
        check_name(row['image'], f'{path}, line {number}: {row["image"]!r}')
        names[classes[scores.index(max(scores))]].append(f'{place}{row["image"]}.jpg')
    return names


def _chests(root: Path, classes: Sequence[str]) -> Labelled:
    """Read NIH ChestX-ray14: the images with exactly one finding among all of them, where it is one of the classes."""
    path = _find(root, 'Data_Entry_2017.csv')
    places = {file.name: file.relative_to(root).as_posix()
              for folder in [root / 'images', *sorted(root.glob('images_*/images'))] if folder.is_dir()
              for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
    names: dict[str, list[str]] = {name: [] for name in classes}
    for number, row in _rows(path, ['Image Index', 'Finding Labels']):
        findings = (row['Finding Labels'] or '').split('|')
        if len(findings) == 1 and findings[0] in names:
            if row['Image Index'] not in places:
                raise FileNotFoundError(f'{path}, line {number}: there is no image {row["Image Index"]!r} in the '
                                        f'folder images or images_*/images of {str(root)!r}')
            names[findings[0]].append(places[row['Image Index']])
    return names


@dataclass(frozen=True)
class MetaSet:
    """One set.

    Args:
        name: Its name, which is that of its file in ``data_splits/lora_recycle/``.
        title: Its full name.
        read: Gives the images of some classes below a folder.
        folders: Usual names of the folder.
        spellings: Other names of the set.
        delimiter: Of the published lists; ``#`` where names hold commas.
    """

    name: str
    title: str
    read: Callable[[Path, Sequence], Labelled]
    folders: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()
    delimiter: str = ','

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the set."""
        return tuple(split for split in META_SPLITS if split in self._document()) or (WHOLE,)

    def classes(self, split: str) -> list:
        """Return the classes of a split: names, or numbers from 0 where the files have no names.

        Raises:
            ValueError: The set has no such split.
        """
        if split not in self.splits:
            raise ValueError(f'{self.title} has the splits {", ".join(self.splits)}, not {split!r}')
        return list(self._document()['classes' if split == WHOLE else split])

    def images(self, root: Path, split: str) -> Labelled:
        """Return the images of a split by class, below the folder of the set.

        Raises:
            ValueError: The set has no such split, or a file cannot be used.
            FileNotFoundError: A file or folder is missing.
        """
        classes = self.classes(split)
        if not root.is_dir():
            raise FileNotFoundError(f'there is no folder {str(root)!r}, which should hold {self.title}')
        found = self.read(root, classes)
        empty = [name for name, images in found.items() if not images]
        if empty:
            raise ValueError(f'{str(root)!r} has no image of {len(empty)} classes of {split}, such as {empty[0]!r}')
        return found

    def _document(self) -> Mapping[str, Sequence]:
        return load_split(f'lora_recycle/{self.name}.json')


META_SETS: Mapping[str, MetaSet] = MappingProxyType({one.name: one for one in (
    MetaSet('cifar-fs', 'CIFAR-FS', _folders, spellings=('cifar100', 'cifarfs')),
    MetaSet('mini-imagenet', 'miniImageNet', _folders),
    MetaSet('cub', 'CUB-200-2011', _birds, ('CUB_200_2011',)),
    MetaSet('vgg-flower', 'VGG-Flower', _flowers, spellings=('flower', 'flowers')),
    MetaSet('cropdiseases', 'CropDiseases', _folders, delimiter='#'),
    MetaSet('eurosat', 'EuroSAT', _folders),
    MetaSet('isic', 'ISIC 2018, task 3', _skin, ('ISIC2018',)),
    MetaSet('chestx', 'ChestX', _chests, spellings=('chest',)),
)})
_SPELLINGS = spellings_of(META_SETS.values())


def find_meta_set(name: str) -> MetaSet:
    """Return the set of a name, in whichever spelling.

    Raises:
        ValueError: There is no such set.
    """
    return find_set(name, _SPELLINGS, 'LoRA-Recycle')


def listed_images(images: Labelled) -> list[ListedImage]:
    """Return images by class as a list; labels are the places of the classes."""
    pairs = [(name, label) for label, names in enumerate(images.values()) for name in names]
    return [ListedImage(name, label, line) for line, (name, label) in enumerate(pairs, 1)]


def meta_list(images: Labelled, root: Path, delimiter: str = ',') -> str:
    """Return images by class as a published list: a row ``filename,label`` each, below a row of these names.

    Raises:
        ValueError: A name or class holds the delimiter, which the published readers do not expect.
    """
    lines = [delimiter.join(('filename', 'label'))]
    for label, names in images.items():
        for name in names:
            row = ((root / name).as_posix(), label)
            if any(delimiter in word or '\n' in word for word in row):
                raise ValueError(f'{row} holds {delimiter!r}, which separates the columns of the list: move the data '
                                 'to a folder without it')
            lines.append(delimiter.join(row))
    return '\n'.join(lines) + '\n'


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=''))
    with explain_bad_csv(rows, path):
        missing = [name for name in columns if name not in (rows.fieldnames or ())]
        if missing:
            has = ', '.join(rows.fieldnames or ())[:200]
            raise ValueError(f'{path} has no column {missing[0]!r}, but {has or "is empty"}')
        return [(rows.line_num, row) for row in rows]


def _find(root: Path, name: str) -> Path:
    """Return a file in a folder or one folder below."""
    found = [root / name, *sorted(root.glob(f'*/{name}'))]
    return next((path for path in found if path.is_file()), found[0])


def _place(root: Path, folder: str) -> str:
    """Return what leads to the images: the folder of the archive where it is there."""
    return f'{folder}/' if (root / folder).is_dir() else ''
