"""Images of your own in one folder per class, for models that know classes by their names."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmlora.registry import DATASETS, register

from .class_folder_files import class_folders, images_in, names_of_folders, read_class_names
from .coop_files import SPLITS, NamedSplits
from .coop_sets import find_templates
from .named_dataset import NamedDataset, check_draw


@register(DATASETS)
class ClassFolders(NamedDataset):
    """One folder of images per class, called after the class: ``<data_root>/train/snowy_owl/1.jpg``.

    Labels are the places of the folders of train in the order of their names. Where there is no folder of validation
    images, CLIP-LoRA's draw takes some of train's that it does not train on.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        n_shot: Images per class of train; val has ``min(n_shot, 4)``. None for all images. Test ignores it.
        sampling: How they are drawn: ``'coop'`` or ``'clip_lora'``.
        seed: Seed of the draw.
        subset: ``'all'`` classes, ``'base'``, the first half, or ``'new'``, the others, with labels from 0.
        data_root: What holds the folders of the splits.
        folders: Folder of each split below ``data_root``; ``'train'``, ``'val'`` and ``'test'`` unless told otherwise.
        names: What the classes are called, by folder, or a file that says so: JSON ``{"folder": "name"}`` or text with
            lines ``folder name``. By default folders are named after the classes. Underscores become blanks.
        index_file: A file below ``data_root`` that says which images to take, instead of a draw.
        templates: Prompts: ``'photo'`` (``'set'`` is the same), ``'ensemble'``, or texts with ``{}``.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``classes`` ...).

    Raises:
        ValueError: An argument is unknown or out of range, val or test has a class that train lacks, or a folder has
            no name.
        FileNotFoundError: A folder or file does not exist.
    """

    def __init__(
        self,
        split: str = 'train',
        n_shot: int | None = None,
        sampling: str = 'coop',
        seed: int = 1,
        subset: str = 'all',
        data_root: str = 'data/images',
        folders: Mapping[str, str] | None = None,
        names: Mapping[str, str] | str | None = None,
        index_file: str | None = None,
        templates: str | Sequence[str] = 'photo',
        **kwargs: Any,
    ) -> None:
        title, root = type(self).__name__, Path(data_root).expanduser()
        check_draw(title, split, n_shot, sampling, seed, subset, index_file)
        below = {**dict(zip(SPLITS, SPLITS, strict=True)), **(folders or {})}
        if set(below) != set(SPLITS):
            raise ValueError(f'{title}: folders={dict(folders)} must be folders of {", ".join(SPLITS)}')
        classes = class_folders(root / below['train'])
        labels = {folder: label for label, folder in enumerate(classes)}
        there = [name for name in SPLITS if (root / below[name]).is_dir()]
        for name in there:
            strange = [folder for folder in class_folders(root / below[name]) if folder not in labels]
            if strange:
                raise ValueError(f'{str(root / below[name])!r} has the class {strange[0]!r}, which '
                                 f'{str(root / below["train"])!r} lacks: give both the same folders, where one may be '
                                 'empty')
        if isinstance(names, str):
            path = root / names
            named = names_of_folders(classes, read_class_names(path), str(path))
        else:
            named = tuple(classes) if names is None else names_of_folders(classes, names, 'names')
        files = NamedSplits(
            named, root,
            {name: partial(images_in, root / below[name], labels, f'{below[name]}/') for name in there},
            {name: str(root / folder) for name, folder in below.items()},
        )  # yapf: disable
        super().__init__(
            title, files, find_templates(templates, find_templates('photo', '')[0]), split, n_shot, sampling, seed,
            subset, root / index_file if index_file else None, check_images=False, **kwargs,
        )  # yapf: disable
