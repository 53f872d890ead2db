"""Images from files that somebody else may have written."""

import io
from collections.abc import Iterable
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmpretrain.registry import TRANSFORMS as MMPRETRAIN_TRANSFORMS
from PIL import Image

from ..registry import TRANSFORMS, register

MAX_PIXELS = 2**27
"""Pixels of the largest image, about 11,600 x 11,600: 400 MB in memory."""

# What the decoders raise on bytes that make no sense to them.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, Image.DecompressionBombError,
           cv2.error)


class _Kept(dict[str, np.ndarray]):
    """Images that nobody writes to, so that copies of a data set share them."""

    def __deepcopy__(self, memo: dict) -> '_Kept':
        return self


@register(TRANSFORMS, bare=False)
class LoadImageFromFile(MMCVLoadImageFromFile):
    """The transform of mmcv, which looks at the size before the pixels.

    A file of some megabytes can be a valid image of a billion pixels, which fills the memory of the machine when it is
    decoded. And whatever is wrong with an image, the error names its file. Configs of mmpretrain get it under the name
    that they use already.

    Args:
        max_pixels: Height times width of the largest image that is decoded. More than 178,956,970 also needs a larger
            ``PIL.Image.MAX_IMAGE_PIXELS``.
        **kwargs: Arguments of mmcv's transform (``color_type``, ``imdecode_backend``, ``to_float32`` ...).

    Raises:
        ValueError: ``max_pixels`` is no whole number of at least 1.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, **kwargs: Any) -> None:
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
            raise ValueError(f'max_pixels={max_pixels!r} must be a whole number of at least 1')
        super().__init__(**kwargs)
        self.max_pixels = max_pixels
        self._kept = _Kept()

    def keep(self, paths: Iterable[str], limit: float) -> None:
        """Decode images now, once, and keep them as they are decoded.

        Worker processes that are forked afterwards share the memory.

        Args:
            paths: Of the images.
            limit: GiB that they may take together.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: An image cannot be used, and ``ignore_empty`` is not set, or they take more than ``limit``.
        """
        paths, kept, size = list(dict.fromkeys(paths)), _Kept(), 0
        for number, path in enumerate(paths, 1):
            try:
                kept[path] = self._read(path)
            except (OSError, ValueError):
                if self.ignore_empty:
                    continue  # `transform` passes over it.
                raise
            size += kept[path].nbytes
            if size > limit * 2**30:
                raise ValueError(f'{number} of {len(paths)} decoded images take more than in_memory={limit} GiB, all '
                                 f'would take about {size / number * len(paths) / 2**30:.1f}: give more, or leave '
                                 'in_memory out and decode them in each epoch')
        self._kept = kept

    def transform(self, results: dict) -> dict | None:
        """Read ``img_path`` and add ``img`` ``(H, W, C)``, ``img_shape`` and ``ori_shape``.

        Returns:
            The results; None where the image cannot be used and ``ignore_empty`` is set.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no image, damaged, or larger than ``max_pixels``; the file is named.
        """
        path = results['img_path']
        try:
            # A copy: transforms may write into it.
            image = self._kept[path].copy() if path in self._kept else self._read(path)
        except (OSError, ValueError):
            if self.ignore_empty:
                return None
            raise
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    def _read(self, path: str) -> np.ndarray:
        content = self.fetch(path)
        if not content:
            raise ValueError(f'{path} cannot be read as an image, it is an empty file: copy it again')
        self._check_size(content, path)
        try:
            image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        except _DAMAGE as error:
            raise ValueError(f'{path} cannot be read as an image ({error}): copy it again') from error
        if image is None:
            raise ValueError(f'{path} cannot be read as an image: it is damaged or of another kind')
        return image.astype(np.float32) if self.to_float32 else image

    def fetch(self, path: str) -> bytes:
        """Return the bytes of a file, from where the transform was told that files are."""
        if self.file_client_args is not None:  # The older way to say where files are.
            return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        return fileio.get(path, backend_args=self.backend_args)

    def _check_size(self, content: bytes, path: str) -> None:
        try:
            with Image.open(io.BytesIO(content)) as opened:
                width, height = opened.size
        except Image.DecompressionBombError as error:
            raise ValueError(f'{path} is too large an image: {error}') from error
        except (OSError, SyntaxError, ValueError):
            return  # Of a kind that only the other decoders know; theirs is the limit then.
        if width * height > self.max_pixels:
            raise ValueError(f'{path} is an image of {width} x {height} pixels, more than max_pixels='
                             f'{self.max_pixels}: make it smaller, or raise max_pixels of LoadImageFromFile')


MMPRETRAIN_TRANSFORMS.register_module(name='LoadImageFromFile', module=LoadImageFromFile, force=True)
