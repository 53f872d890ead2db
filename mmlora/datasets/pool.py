"""The images of a pool as a data set: what ``tools/invert.py`` has written, with masks beside the images."""

from typing import Any

import numpy as np
import torch
from mmpretrain.datasets import BaseDataset

from ..io.pool import Pool, PoolImage
from ..registry import DATASETS, register

CHANNELS = ('rgb', 'bgr')


@register(DATASETS)
class PoolImages(BaseDataset):
    """Synthetic images with the classes of the LoRAs that they were made from.

    Args:
        pool: Folder of the pool.
        mask_ratio: The data samples get the mask of this ratio as ``patch_mask`` ``(P,)``, True where a patch is kept;
            flips of the pipeline flip it too. 0 is the mask of pruning alone, None gives none.
        channels: Order of the channels that the pipeline gets: ``'bgr'`` for models whose data preprocessor turns
            channels (``to_rgb=True``), as ``LoadImageFromFile`` gives, ``'rgb'`` for those that take them as they are.
        only_correct: Leave out images that the classifier does not take for their class.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices`` ...). The pipeline gets ``img``.

    Raises:
        ValueError: The order of the channels is unknown, there is no such mask or it keeps no patch, the pool is not
            finished, an image has another size than the pool, or no image of a class is left.
        FileNotFoundError: There is no pool, or an image of it is missing.
    """

    def __init__(
        self,
        pool: str,
        mask_ratio: float | None = None,
        channels: str = 'bgr',
        only_correct: bool = False,
        **kwargs: Any,
    ) -> None:
        if channels not in CHANNELS:
            raise ValueError(f'channels={channels!r} must be one of {", ".join(CHANNELS)}')
        self.pool, self.mask_ratio, self.channels = Pool.open(pool), mask_ratio, channels
        self.images = [image for image in self.pool.images if image.correct or not only_correct]
        if not self.images:
            raise ValueError(f'{pool} has {len(self.pool.images)} images, of which none is left: make it, or set '
                             'only_correct=False')
        self.pool.check_finished()
        self.pool.check_files()
        empty = sorted(set(range(len(self.pool.classes))) - {image.gt_label for image in self.images})
        if empty:
            raise ValueError(f'{pool} has no image of the class {self.pool.classes[empty[0]]!r} that the classifier '
                             'takes for it: make more or better ones, or set only_correct=False')
        if mask_ratio is not None:
            for image in self.images:
                self.pool.mask(image, mask_ratio)
        metainfo = dict(classes=tuple(self.pool.classes))
        super().__init__(ann_file='', metainfo={**metainfo, **(kwargs.pop('metainfo', None) or {})}, **kwargs)

    @property
    def loras(self) -> list[str]:
        """The LoRA that each image was made from."""
        return [self.get_data_info(index)['lora'] for index in range(len(self))]

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the class, the LoRA and the place in the pool of each image."""
        return [dict(gt_label=image.gt_label, lora=image.lora, place=place) for place, image in enumerate(self.images)]

    def prepare_data(self, idx: int) -> Any:
        """Read an image, run the pipeline and add the mask; ``lora_label`` is its label in the head of its LoRA.

        Raises:
            ValueError: The pipeline moves patches by more than a flip, and the image has a mask.
        """
        info = self.get_data_info(idx)
        image = self.images[info['place']]
        pixels = self.pool.pixels(image)
        info['img'] = (pixels[:, :, ::-1] if self.channels == 'bgr' else pixels).copy()
        info['img_shape'] = info['ori_shape'] = size = pixels.shape[:2]
        info['sample_idx'] = int(info['sample_idx'])
        item = self._prepare(image, info, size)
        item['data_samples'].set_metainfo(dict(lora_label=image.lora_label))
        return item

    def _prepare(self, image: PoolImage, info: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        if self.mask_ratio is None:
            return self.pipeline(info)
        mask = self.pool.mask(image, self.mask_ratio).reshape(*self.pool.about['grid'])
        info['gt_seg_map'] = mask.numpy().astype(np.uint8)  # What mmcv's transforms flip together with the image.
        *steps, pack = self.pipeline.transforms
        for step in steps:
            info = step(info)
        if tuple(info['img'].shape[:2]) != size or info['gt_seg_map'].shape != mask.shape:
            raise ValueError(f'an image of {size} pixels has {tuple(info["img"].shape[:2])} after the pipeline, so '
                             'that its mask does not fit: pipelines of masked images may flip and change colours, '
                             'nothing else')
        item = pack(info)
        item['data_samples'].set_field(torch.from_numpy(info['gt_seg_map'].astype(bool)).flatten(), 'patch_mask')
        return item
