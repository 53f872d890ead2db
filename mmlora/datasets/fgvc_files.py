"""What the annotation files of an FGVC set say: images and labels by split, from JSON or from the official files.

VPT's layout is a JSON file for each of train, val and test, ``{"<image path>": <class id>}``. RLRR needs a
``trainval.json`` beside them, which VPT does not have; where it is missing, train and val are put together.

The official files have no val but that of Flowers. A tenth of the training images is drawn instead, as many as VPT
holds out, each class in proportion; **the images are not those that VPT chose**, which only its files tell.

Deviation from the published code: class ids become labels by one map, made from all files of the set. The published
code makes one for each file, so that a class that a split lacks shifts all labels after it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..plain_json import parse_json
from ..randomness import derive_seed
from .fgvc_official import class_name, find_list, read_class_table, read_official
from .fgvc_sets import FGVCSet
from .list_files import ListedImage, check_images_agree, check_name, missing_images, quote, read_text

SPLITS = ('train', 'val', 'trainval', 'test')
LAYOUTS = ('json', 'official')
_VAL_SHARE = 10  # One of so many training images is held out.
_DIGITS = 18  # Of a class id.
_TRIED = 20  # Images that are looked for to find their folder.


@dataclass(frozen=True)
class FGVCFiles:
    """The annotation files of a set.

    Args:
        layout: ``'json'`` or ``'official'``.
        splits: Images by split; labels are 0..C-1. A split without a file is left out.
        sources: The files of each split that is there, as messages name them.
        class_ids: The class id in the files of each label, ascending.
        classes: Names of the classes; may be empty.
    """

    layout: str
    splits: Mapping[str, list[ListedImage]]
    sources: Mapping[str, str]
    class_ids: tuple[int, ...]
    classes: tuple[str, ...] = ()

    def relabel(self, images: Sequence[ListedImage], path: Any) -> list[ListedImage]:
        """Turn class ids into labels.

        Args:
            images: Images with class ids.
            path: The file that they come from, for the message.

        Raises:
            ValueError: A class id is not one of the set.
        """
        labels = {number: label for label, number in enumerate(self.class_ids)}
        odd = next((image for image in images if image.label not in labels), None)
        if odd:
            raise ValueError(f'{path}, entry {odd.line}: {odd.name!r} has the class id {odd.label}, which is none of '
                             f'the {len(labels)} of the set, {self.class_ids[0]}..{self.class_ids[-1]}')
        return [replace(image, label=labels[image.label]) for image in images]


def read_fgvc(folder: Path, fgvc_set: FGVCSet, layout: str | None = None) -> FGVCFiles:
    """Read the annotation files of a set.

    Args:
        folder: Folder of the set.
        fgvc_set: The set.
        layout: ``'json'`` or ``'official'``; by default JSON where ``train.json`` or ``trainval.json`` is there, and
            else the official files.

    Raises:
        FileNotFoundError: The files are missing.
        ValueError: The layout is unknown, or a file cannot be used; the message quotes what is wrong.
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f'layout={layout!r} must be one of {", ".join(map(repr, LAYOUTS))}, or None to look which '
                         'files there are')
    json_files = {split: folder / f'{split}.json' for split in SPLITS if (folder / f'{split}.json').is_file()}
    official = find_list(folder, fgvc_set.official[0]) or find_list(folder, 'cars_annos.mat')
    if layout == 'json' or (layout is None and json_files.keys() & {'train', 'trainval'}):
        if not json_files:
            raise FileNotFoundError(f'{str(folder)!r} has none of {", ".join(f"{split}.json" for split in SPLITS)}')
        return _from_json(json_files, folder)
    if layout is None and not official:
        raise FileNotFoundError(
            f'{str(folder)!r} has neither train.json, val.json and test.json nor the official files of '
            f'{fgvc_set.title} ({", ".join(fgvc_set.official)}); docs/datasets.md tells how to get them'
        )
    return _from_official(folder, fgvc_set)


def read_fgvc_json(path: Path) -> list[ListedImage]:
    """Read a JSON file ``{"<image path>": <class id>}``; labels are the class ids.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another form, or an entry cannot be used; the message quotes it.
    """
    text = read_text(path)
    try:
        pairs = parse_json(text, object_pairs_hook=list)  # A dict would hide that a name occurs twice.
    except ValueError as error:
        raise ValueError(f'{path}: not JSON ({error})') from error
    if not isinstance(pairs, list) or any(not isinstance(pair, tuple) for pair in pairs):
        raise ValueError(f'{path}: must be an object like {{"001.Black_footed_Albatross/1.jpg": 1}}')
    images = []
    for number, (name, value) in enumerate(pairs, 1):
        where = f'{path}, entry {number}: {json.dumps({name: value})[:120]}'
        check_name(name, where)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole and not (isinstance(value, str) and value.isdecimal() and len(value) <= _DIGITS):
            raise ValueError(f'{where} has {quote(value)} where a class id, a whole number, belongs')
        images.append(ListedImage(name, int(value), number))
    check_images_agree(images, path)
    return images


def draw_val(images: Sequence[ListedImage], name: str) -> set[str]:
    """Choose a tenth of the training images of a set, the same ones everywhere, each class in proportion.

    The images are put in order by class and then by a hash of set and image, and every tenth is taken, so that the
    order of the list does not count.

    Args:
        images: The training images.
        name: Name of the set.

    Returns:
        The names of the chosen images, a tenth of all, rounded up.
    """
    ordered = sorted(images, key=lambda image: (image.label, derive_seed('fgvc-val', name, image.name), image.name))
    count = math.ceil(len(ordered) / _VAL_SHARE)
    return {ordered[(2 * number + 1) * len(ordered) // (2 * count)].name for number in range(count)}


def find_image_folder(folder: Path, fgvc_set: FGVCSet, images: Sequence[ListedImage]) -> Path:
    """Find the folder below which the images of a list lie, by looking for some of them.

    Args:
        folder: Folder of the set.
        fgvc_set: The set.
        images: The list.

    Returns:
        The folder that has most of them; the official one where none has any.
    """
    names = [image.name for image in images[::max(1, len(images) // _TRIED)]]
    places = [folder / below for below in fgvc_set.image_folders]
    return min(places, key=lambda place: len(missing_images(place, names)))


def _from_json(paths: Mapping[str, Path], folder: Path) -> FGVCFiles:
    read = {split: read_fgvc_json(path) for split, path in paths.items()}
    known: dict[str, tuple[int, Path]] = {}
    for split, images in read.items():
        for image in images:
            first, place = known.setdefault(image.name, (image.label, paths[split]))
            if first != image.label:
                raise ValueError(f'{image.name!r} has the class id {first} in {place} and {image.label} in '
                                 f'{paths[split]}: the files do not belong together')
    sources = {split: str(path) for split, path in paths.items()}
    if 'trainval' not in read and {'train', 'val'} <= read.keys():
        held = {image.name for image in read['train']}
        both = next((image.name for image in read['val'] if image.name in held), None)
        if both:
            raise ValueError(f'{both!r} is in {paths["train"]} and in {paths["val"]}, which are put together for '
                             'trainval: take it out of one')
        read['trainval'] = [*read['train'], *read['val']]
        sources['trainval'] = f'{paths["train"]} and {paths["val"].name}'
    ids = tuple(sorted({number for number, _ in known.values()}))
    every = [image for images in read.values() for image in images]
    files = FGVCFiles('json', {}, sources, ids, _names_from_folders(every, ids, folder))
    return replace(files, splits={split: files.relabel(images, sources[split]) for split, images in read.items()})


def _from_official(folder: Path, fgvc_set: FGVCSet) -> FGVCFiles:
    found = read_official(folder, fgvc_set)
    splits = dict(found.splits)
    # Several splits may come from one file, and each needs a name of its own.
    sources = {split: f'{split} of {path}' for split, path in found.sources.items()}
    for split, images in splits.items():
        check_images_agree(images, sources[split])
    train_file = found.sources['train']
    sources['trainval'] = f'trainval of {train_file}'
    if 'val' in splits:
        splits['trainval'] = [*splits['train'], *splits['val']]
    else:
        splits['trainval'] = splits['train']
        held = draw_val(splits['trainval'], fgvc_set.name)
        splits['train'] = [image for image in splits['trainval'] if image.name not in held]
        splits['val'] = [image for image in splits['trainval'] if image.name in held]
        sources.update(train=f'all but a drawn tenth of {train_file}', val=f'a drawn tenth of {train_file}')
    every = [image for images in splits.values() for image in images]
    names = found.classes or _names_from_folders(every, found.class_ids, folder)
    files = FGVCFiles('official', {}, sources, found.class_ids, names)
    return replace(files, splits={split: files.relabel(images, sources[split]) for split, images in splits.items()})


def _names_from_folders(images: Sequence[ListedImage], ids: Sequence[int], folder: Path) -> tuple[str, ...]:
    # Folders of CUB and Dogs are named after classes. Those of NABirds have their number, which classes.txt explains.
    found: dict[int, set[str]] = {}
    for image in images:
        found.setdefault(image.label, set()).add(Path(image.name).parent.name)
    folders = [found.get(number, set()) for number in ids]
    names = [next(iter(own)) for own in folders if len(own) == 1]
    if len(names) != len(ids) or len(set(names)) != len(ids):
        return ()
    if not all(name.isdecimal() for name in names):
        return tuple(class_name(name) for name in names)
    path = find_list(folder, 'classes.txt')
    table = read_class_table(path) if path else {}
    return tuple(table.get(int(name), '') for name in names) if all(int(name) in table for name in names) else ()
