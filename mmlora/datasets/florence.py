"""Images with boxes as text, in the JSONL files that Florence-2 is fine-tuned on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmpretrain.datasets import BaseDataset

from ..io.location_tokens import NamedBox, keep_classes, read_boxes, write_boxes
from ..plain_json import parse_json
from ..registry import DATASETS, register
from .list_files import check_images_exist, check_name, quote, read_text

IMAGE_KEYS = ('image', 'image_path')
"""What the name of an image is called: first as the published loader reads it, then as its documentation has it."""
KEYS = ('id', *IMAGE_KEYS, 'height', 'width', 'prefix', 'suffix')
DETECTION = '<OD>'
"""The task of a line without ``prefix``: detection of objects."""


class AnnotatedImage(NamedTuple):
    """One line of a file.

    Attributes:
        image: Name of the image.
        prefix: The task, such as ``'<OD>'``.
        boxes: What the suffix holds.
        line: Number of the line, from 1.
        entry: The whole line.
    """

    image: str
    prefix: str
    boxes: list[NamedBox]
    line: int
    entry: Mapping[str, Any]


def read_annotations(path: str | Path) -> list[AnnotatedImage]:
    """Read a file of annotations.

    Args:
        path: Has one JSON object on each line: ``image`` (or ``image_path``) and ``suffix``, and as they please
            ``prefix``, ``id``, ``height`` and ``width``. Blank lines are passed over.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, or a line cannot be used; the message says which line and why.
    """
    images = list(_read_lines(path))
    if not images:
        raise ValueError(f'{path}: the file has no annotation')
    return images


def _read_lines(path: str | Path) -> Iterator[AnnotatedImage]:
    for number, line in enumerate(read_text(path).split('\n'), 1):
        if line.strip():
            yield _read_line(line, number, f'{path}, line {number}')


def _read_line(line: str, number: int, where: str) -> AnnotatedImage:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise ValueError(f'{where} is no JSON ({error}): each line holds one object') from error
    if not isinstance(entry, dict):
        raise ValueError(f'{where} holds a {type(entry).__name__}, where an object {{"image": ..., "suffix": ...}} '
                         'belongs')
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise ValueError(f'{where} has the unknown key {quote(unknown[0])}: the keys are {", ".join(KEYS)}')
    named = [key for key in IMAGE_KEYS if key in entry]
    if len(named) != 1:
        raise ValueError(f'{where} has {" and ".join(named) or "no image"}: give either image or image_path')
    if 'suffix' not in entry:
        raise ValueError(f'{where} has no suffix: an image without boxes has "suffix": ""')
    texts = {key: entry[key] for key in (*named, 'prefix', 'suffix') if key in entry}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f'{where} has {key}={quote(value)}, where text belongs')
    name = texts[named[0]]
    check_name(name, f'{where}: {quote(name)}')
    return AnnotatedImage(name, texts.get('prefix', DETECTION), read_boxes(texts['suffix'], where), number, entry)


def filter_annotations(images: Sequence[AnnotatedImage], classes: Sequence[str]) -> list[AnnotatedImage]:
    """Return the images with boxes of some classes, and these boxes alone.

    Args:
        images: Of a file.
        classes: Whole names of classes.

    Raises:
        ValueError: A class has no box at all; those that there are, are named.
    """
    known = {box.name for image in images for box in image.boxes}
    lost = [name for name in classes if name not in known]
    if lost:
        raise ValueError(f'no box is of the class {lost[0]!r}; the classes are {sorted(known)}')
    kept = [image._replace(boxes=keep_classes(image.boxes, set(classes))) for image in images]
    return [image for image in kept if image.boxes]


@register(DATASETS)
class FlorenceDetection(BaseDataset):
    """Detection as Florence-2 learns it: ``prefix`` is the task, ``suffix`` the text of all boxes.

    Both published forms of a line are read: ``image``, ``prefix`` and ``suffix``, and ``image_path`` without prefix.
    A subset of the classes makes a task of its own, from one file for all of them; images without any of its boxes are
    left out, as in the published files.

    Data samples get ``prefix`` and ``suffix``, and ``gt_names`` and ``gt_bins`` for
    :class:`mmlora.evaluation.DetectionMAP`.

    Args:
        ann_file: The JSONL file, relative to ``data_root``.
        data_root: Folder of the files.
        data_prefix: Folder of the images below ``data_root``; by default they lie beside ``ann_file``.
        classes: The classes of the task; None takes all.
        check_images: Whether to check at construction that all images exist.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices`` ...).

    Raises:
        TypeError: ``classes`` is no list of names.
        ValueError: A line cannot be used, or a class has no box; the message says which.
        FileNotFoundError: The file or images do not exist.
    """

    def __init__(
        self,
        ann_file: str,
        data_root: str = '',
        data_prefix: str | None = None,
        classes: Sequence[str] | None = None,
        check_images: bool = True,
        **kwargs: Any,
    ) -> None:
        if classes is not None and (isinstance(classes, str) or not classes):
            raise TypeError(f'classes={classes!r} must be a list of names, or None for all classes')
        root = Path(data_root).expanduser()
        path = root / ann_file
        self.check_images = check_images
        self.images = read_annotations(path)
        if classes is not None:
            try:
                self.images = filter_annotations(self.images, classes)
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
        names = classes or sorted({box.name for image in self.images for box in image.boxes})
        metainfo = {'classes': tuple(names), **(kwargs.pop('metainfo', None) or {})}
        folder = path.parent if data_prefix is None else root / data_prefix
        super().__init__(ann_file=str(path), metainfo=metainfo, data_prefix=str(folder), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List path, task, text and boxes of each image.

        Raises:
            FileNotFoundError: Images are missing; the first is named with its line.
        """
        folder = Path(self.img_prefix)
        if self.check_images:
            self._check_images(folder)
        return [
            dict(
                img_path=str(folder / image.image),
                prefix=image.prefix,
                suffix=write_boxes(image.boxes),
                gt_names=[box.name for box in image.boxes],
                gt_bins=[list(box.bins) for box in image.boxes],
            )
            for image in self.images
        ]

    def _check_images(self, folder: Path) -> None:
        try:
            check_images_exist(folder, (image.image for image in self.images), self.ann_file)
        except FileNotFoundError as error:
            first = next(image for image in self.images if not (folder / image.image).is_file())
            raise FileNotFoundError(f'{error}; the first is of line {first.line}') from error

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of an image, each once."""
        numbers = self.class_to_idx
        return sorted({numbers[name] for name in self.get_data_info(idx)['gt_names']})
