"""Files that say which images of a set a run has: JSON with their positions in the list, their paths, or both.

``{"train": {"indices": [8, 96], "paths": ["banded/banded_0117.jpg", ...]}, "val": {...}}``. Either may be left out, and
``"train": [8, 96]`` or ``"train": ["banded/banded_0117.jpg"]`` is enough. Files with ``"data": [{"impath": ...}]`` in
place of paths, as some publish CoOp's choices, are read too: an ``impath`` ends in the path of the image.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..plain_json import parse_json
from .list_files import ListedImage, quote, read_text


def read_index_file(path: Path) -> Mapping[str, Any]:
    """Read the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a JSON object.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f'{path}: not JSON ({error})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: must be an object like {{"train": [0, 5, 9], "val": ["a/1.jpg"]}}')
    return content


def chosen_images(
    content: Mapping[str, Any], split: str, images: Sequence[ListedImage], path: Path
) -> list[ListedImage]:
    """Return the images that a file chooses, in its order.

    Args:
        content: What :func:`read_index_file` returns.
        split: ``'train'`` or ``'val'``.
        images: The list that positions count in.
        path: The file, for messages.

    Raises:
        ValueError: The file lacks the split, or names what the list does not have; the message quotes it.
    """
    part = content.get(split)
    if isinstance(part, dict):
        names = part.get('paths')
        if names is None and isinstance(part.get('data'), list):
            names = [row.get('impath') if isinstance(row, dict) else row for row in part['data']]
        indices = part.get('indices')
    else:
        by_name = isinstance(part, list) and part and isinstance(part[0], str)
        names, indices = (part, None) if by_name else (None, part)
    for what in (names, indices):
        if what is not None and not (isinstance(what, list) and what):
            raise ValueError(f'{path}: the images of {split} must be a list that is not empty, not {quote(what)}')
    if names is None and indices is None:
        raise ValueError(f'{path}: chooses no images of {split}; it has {", ".join(content)[:200] or "nothing"}')
    if names is None:
        return [_by_index(index, images, split, path) for index in indices]
    chosen = _by_names(names, images, split, path)
    if indices is not None:
        other = [_by_index(index, images, split, path) for index in indices]
        odd = next((pair for pair in zip(other, chosen, strict=False) if pair[0].name != pair[1].name), None)
        if odd or len(other) != len(chosen):
            what = f'{odd[0].name!r} and {odd[1].name!r}' if odd else f'{len(other)} and {len(chosen)} images'
            raise ValueError(f'{path}: indices and paths of {split} disagree ({what}): they are of another list')
    return chosen


def format_index_file(
    about: Mapping[str, Any], lists: Mapping[str, Sequence[ListedImage]], chosen: Mapping[str, Sequence[ListedImage]]
) -> str:
    """Return the text of a file.

    Args:
        about: Facts that come first, such as the seed.
        lists: The list of each split, in which positions count.
        chosen: The images of each split; those of ``val`` are positions in the list of train where there is no other.
    """
    content: dict[str, Any] = dict(about)
    for split, images in chosen.items():
        place = {image.name: number for number, image in enumerate(lists[split])}
        content[split] = dict(indices=[place[image.name] for image in images], paths=[image.name for image in images])
    return json.dumps(content, indent=1) + '\n'


def _by_index(index: Any, images: Sequence[ListedImage], split: str, path: Path) -> ListedImage:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(images):
        raise ValueError(f'{path}: {split} has the index {quote(index)}, outside of 0..{len(images) - 1}, the list of '
                         f'{split}')
    return images[index]


def _by_names(names: Sequence[Any], images: Sequence[ListedImage], split: str, path: Path) -> list[ListedImage]:
    known = {image.name: image for image in images}
    depth = max((name.count('/') for name in known), default=0) + 1
    chosen = []
    for name in names:
        # Published files have the folders of those who wrote them in front.
        parts = name.removeprefix('./').split('/')[-depth:] if isinstance(name, str) else []
        ends = ('/'.join(parts[start:]) for start in range(len(parts)))
        found = next((known[end] for end in ends if end in known), None)
        if found is None:
            raise ValueError(f'{path}: {split} has the image {quote(name)}, which the list of {split} does not have')
        chosen.append(found)
    return chosen
