"""What data sets made of a list and an image folder share."""

import os
from collections.abc import Mapping
from typing import Any

from mmengine.logging import MMLogger
from mmpretrain.datasets import BaseDataset

from .list_files import ListedImage, check_images_exist, read_list, repeated
from .loading import LoadImageFromFile


def check_shot(n_shot: Any, exp: Any) -> None:
    """Check the number of images per class and the number of the published split.

    Args:
        n_shot: A whole number of at least 1, or None for all images.
        exp: A whole number of at least 1.

    Raises:
        ValueError: Either is something else; a reference to a variable that was not settled is explained.
    """
    for name, value in (('n_shot', n_shot), ('exp', exp)):
        if isinstance(value, str) and value.startswith('{'):
            raise ValueError(f'{name}={value!r} refers to a variable of the config: call '
                             'mmlora.apis.settle_variables(cfg) before the data set is built, or give a number')
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole and not (name == 'n_shot' and value is None):
            raise ValueError(f'{name}={value!r} must be a whole number of at least 1'
                             + (', or None for all images' if name == 'n_shot' else ''))


class ListedDataset(BaseDataset):
    """A data set whose images and labels come from a list file.

    Args:
        ann_file: Path of the list.
        num_classes: Number of classes C.
        multi_label: Whether images have any number of classes; ``gt_label`` is then a list of indices.
        without: Path of another list whose images are left out; every one of them must be in ``ann_file``.
        check_images: Whether to check at construction that all images exist.
        metainfo: Meta information; ``num_classes`` is added.
        in_memory: GiB that all images may take, decoded: they are then decoded once, when the data set is built, and
            not in each epoch. None decodes each image whenever it is asked for.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``data_root``, ``data_prefix``, ``pipeline`` ...).

    Raises:
        ValueError: The list cannot be used; see :func:`~mmlora.datasets.list_files.read_list`. Or ``in_memory`` is no
            size, is too small, or the pipeline has no ``LoadImageFromFile``.
        FileNotFoundError: The list or images do not exist.
    """

    def __init__(
        self,
        ann_file: str,
        num_classes: int,
        multi_label: bool = False,
        without: str | None = None,
        check_images: bool = True,
        metainfo: Mapping[str, Any] | None = None,
        in_memory: float | None = None,
        **kwargs: Any,
    ) -> None:
        if in_memory is not None and (isinstance(in_memory, bool) or not isinstance(in_memory, (int, float))
                                      or not in_memory > 0):
            raise ValueError(f'in_memory={in_memory!r} must be the GiB that decoded images may take, such as 2.0, or '
                             'None')
        self.in_memory = in_memory
        self.num_classes, self.multi_label = num_classes, multi_label
        self.without, self.check_images = without, check_images
        metainfo = {**(metainfo or {}), 'num_classes': num_classes}
        super().__init__(ann_file=ann_file, metainfo=metainfo, **kwargs)

    def full_init(self) -> None:
        """Read the list, and the images where they are to be kept."""
        if self._fully_initialized:
            return
        super().full_init()
        if self.in_memory is None:
            return
        loaders = [one for one in self.pipeline.transforms if isinstance(one, LoadImageFromFile)]
        if not loaders:
            raise ValueError(f'in_memory={self.in_memory} keeps what LoadImageFromFile decodes, and the pipeline has '
                             f'{[type(one).__name__ for one in self.pipeline.transforms]}')
        for loader in loaders:
            loader.keep((self.get_data_info(place)['img_path'] for place in range(len(self))), self.in_memory)

    def read_images(self, path: str) -> list[ListedImage]:
        """Read a list of this data set."""
        return read_list(path, self.num_classes, self.multi_label)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List ``img_path`` and ``gt_label`` of each image: an index, or a list of indices with ``multi_label``."""
        images = self.read_images(self.ann_file)
        if self.without is not None:
            images = self._subtract(images)
        if self.check_images:
            check_images_exist(self.img_prefix, (image.name for image in images), self.ann_file)
        twice = repeated(images)
        if twice:
            MMLogger.get_current_instance().info(f'{self.ann_file}: {twice} of the {len(images)} lines repeat an image')
        return [
            dict(
                img_path=os.path.join(self.img_prefix, image.name),
                gt_label=list(image.label) if self.multi_label else image.label,
            )
            for image in images
        ]

    def _subtract(self, images: list[ListedImage]) -> list[ListedImage]:
        left_out = {image.name for image in self.read_images(self.without)}
        strange = left_out - {image.name for image in images}
        if strange:
            raise ValueError(f'{len(strange)} images of {self.without} are not in {self.ann_file}, such as '
                             f'{min(strange)!r}: the lists do not belong together')
        images = [image for image in images if image.name not in left_out]
        if not images:
            raise ValueError(f'{self.without} holds all images of {self.ann_file}: none is left for validation')
        return images

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of an image."""
        label = self.get_data_info(idx)['gt_label']
        return list(label) if self.multi_label else [label]

    def extra_repr(self) -> list[str]:
        """Describe the lists for ``repr``."""
        without = [f'Without the images of: \t{self.without}'] if self.without else []
        return [*super().extra_repr(), *without]
