"""A data set of your own from a list in a text, CSV or JSON file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlora.registry import DATASETS, register

from .list_files import ListedImage, read_list
from .listed import ListedDataset
from .table_files import read_csv, read_json

SUFFIXES = ('.txt', '.csv', '.json')


@register(DATASETS)
class ListDataset(ListedDataset):
    """Images and labels from a list; images in one folder per class are mmpretrain's ``CustomDataset``.

    The suffix of the list says how it is read:

    * ``.txt``: lines ``<name> <class index>``, or with ``multi_label`` ``<name> 0,1,0`` (or blanks between).
    * ``.csv``: a table with a first row of names, ``image`` and ``label``. Labels are names or indices, several of them
      separated by ``|``; a multi-label table may have a column of 0 and 1 for each class instead.
    * ``.json``: a list of objects ``{"image": "a.png", "label": "cat"}``, with a list of labels with ``multi_label``.

    Args:
        ann_file: The list, relative to ``data_root``.
        classes: Names of the classes, in the order of the indices.
        num_classes: Number of classes; needed without ``classes``.
        multi_label: Whether images have any number of classes; ``gt_label`` is then a list of indices.
        columns: Names of the columns, or JSON keys, of image and label.
        separator: What stands between several labels in a CSV table.
        without: Another list, relative to ``data_root``, whose images are left out: the training images, say.
        data_root: Folder of the lists and images.
        data_prefix: Folder of the images below ``data_root``.
        check_images: Whether to check at construction that all images exist.
        metainfo: Meta information; its ``classes`` serve as the argument does.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...).

    Raises:
        ValueError: An option does not fit, or the list cannot be used; the message quotes it.
        FileNotFoundError: The list or images do not exist.
    """

    def __init__(
        self,
        ann_file: str,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        multi_label: bool = False,
        columns: Sequence[str] = ('image', 'label'),
        separator: str = '|',
        without: str | None = None,
        data_root: str = '',
        data_prefix: str = '',
        check_images: bool = True,
        metainfo: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        root = Path(data_root).expanduser()
        for path in (ann_file, *([without] if without else [])):
            if Path(path).suffix.lower() not in SUFFIXES:
                raise ValueError(f'the list {path!r} must end in one of {", ".join(SUFFIXES)}')
        if isinstance(classes, str):
            raise ValueError(f'classes={classes!r} must be a list of names')
        classes = tuple(classes or (metainfo or {}).get('classes') or ())
        if len(set(classes)) < len(classes):
            raise ValueError(f'a class occurs twice in {classes}')
        if num_classes is None and not classes:
            raise ValueError('ListDataset needs classes=[...] or num_classes: the labels of one list do not tell how '
                             'many classes there are')
        if classes and num_classes not in (None, len(classes)):
            raise ValueError(f'num_classes={num_classes} does not fit the {len(classes)} names in classes')
        if len(columns) != 2 or not separator:
            raise ValueError(f'columns={columns!r} must name two, of image and label, and separator={separator!r} must '
                             'not be empty')
        self.columns, self.separator, self._class_names = tuple(columns), separator, classes
        metainfo = dict(metainfo or {})
        if classes:
            metainfo['classes'] = classes
        super().__init__(
            ann_file=str(root / ann_file),
            num_classes=num_classes or len(classes),
            multi_label=multi_label,
            without=str(root / without) if without else None,
            check_images=check_images,
            metainfo=metainfo,
            data_prefix=str(root / data_prefix),
            **kwargs,
        )

    def read_images(self, path: str) -> list[ListedImage]:
        """Read a list in the form that its suffix names."""
        suffix = Path(path).suffix.lower()
        if suffix == '.txt':
            return read_list(path, self.num_classes, self.multi_label)
        options = dict(classes=self._class_names, multi_label=self.multi_label, columns=self.columns)
        if suffix == '.csv':
            return read_csv(path, self.num_classes, separator=self.separator, **options)
        return read_json(path, self.num_classes, **options)
