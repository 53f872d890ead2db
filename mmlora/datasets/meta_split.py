"""A split of a set of LoRA-Recycle as a data set."""

import os
from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset

from ..registry import DATASETS, register
from .list_files import check_images_exist
from .meta_sets import find_meta_set, listed_images


@register(DATASETS)
class MetaSplit(BaseDataset):
    """The images of the classes of a split, from the files of a set as they are published.

    Args:
        name: ``'cifar-fs'``, ``'mini-imagenet'``, ``'cub'``, ``'vgg-flower'``, ``'cropdiseases'``, ``'eurosat'``,
            ``'isic'`` or ``'chestx'``, in any spelling.
        split: ``'meta_train'``, ``'meta_val'`` or ``'meta_test'``; of the last four sets ``'all'``.
        data_root: Folder of the set.
        check_images: Whether to check at construction that all images exist.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...).

    Raises:
        ValueError: The set or the split is unknown, or a file cannot be used.
        FileNotFoundError: A folder, a file or images do not exist.
    """

    def __init__(
        self, name: str, split: str, data_root: str, check_images: bool = True, **kwargs: Any
    ) -> None:
        self.meta_set, self.split = find_meta_set(name), split
        self.root = Path(data_root).expanduser()
        self._images = self.meta_set.images(self.root, split)
        if check_images:
            names = (image.name for image in listed_images(self._images))
            check_images_exist(str(self.root), names, self.meta_set.title)
        metainfo = {'classes': tuple(self._images), **(kwargs.pop('metainfo', None) or {})}
        super().__init__(ann_file='', metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List ``img_path`` and ``gt_label`` of each image, class by class."""
        return [dict(img_path=os.path.join(self.root, image.name), gt_label=image.label)
                for image in listed_images(self._images)]

    def extra_repr(self) -> list[str]:
        """Describe the split for ``repr``."""
        return [f'Set: \t{self.meta_set.title}', f'Split: \t{self.split}']
