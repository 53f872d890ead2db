"""Digits: the real handwritten digits that scikit-learn ships, as a target that no network here was trained for."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from mmpretrain.datasets import BaseDataset

from mmlora._requirements import install_extra
from mmlora.registry import DATASETS, register

CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
IMAGE_SIZE = 32
SPLIT_SEED = 0
SPLIT_SIZES = {'train': 80, 'val': 40}  # images per class; the test split has all others


@cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read the 1797 images of scikit-learn's ``load_digits`` (Alpaydin and Kaynak, UCI, 1998).

    Returns:
        uint8 ``(1797, 8, 8)`` with light ink on a dark ground in 0..255, and int64 ``(1797,)`` labels in 0..9; both
        read-only, since they are read once.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError('Digits come with scikit-learn; install it with: '
                          f'{install_extra("quickstart")}') from error
    images, labels = load(return_X_y=True)
    images = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    for array in (images, labels):
        array.setflags(write=False)
    return images, labels


def split_positions(labels: np.ndarray, split: str) -> np.ndarray:
    """Choose the images of a split: a fixed shuffle of each class, cut into train, val and test.

    Args:
        labels: ``(N,)`` labels.
        split: ``'train'`` (80 of each class), ``'val'`` (40 of each class) or ``'test'`` (all others).

    Returns:
        ``(n, )`` positions, class by class, each class in the order of its shuffle.

    Raises:
        ValueError: An unknown split.
    """
    if split not in (*SPLIT_SIZES, 'test'):
        raise ValueError(f'Digits has the splits {", ".join(SPLIT_SIZES)} and test, not {split!r}')
    start = 0 if split == 'train' else SPLIT_SIZES['train'] if split == 'val' else sum(SPLIT_SIZES.values())
    stop = None if split == 'test' else start + SPLIT_SIZES[split]
    chosen = []
    for label in np.unique(labels):
        rng = np.random.default_rng((SPLIT_SEED, int(label)))
        chosen.append(rng.permutation(np.flatnonzero(labels == label))[start:stop])
    return np.concatenate(chosen)


def few_shot_positions(labels: np.ndarray, positions: np.ndarray, n_shot: int, seed: int) -> np.ndarray:
    """Choose ``n_shot`` images of each class from a split.

    Args:
        labels: ``(N,)`` labels of all images.
        positions: ``(n,)`` positions of the split.
        n_shot: Images of each class.
        seed: Seed of the choice; with the same seed, a larger choice contains every smaller one.

    Returns:
        ``(n_shot * classes,)`` positions.

    Raises:
        ValueError: A class has fewer than ``n_shot`` images; the message names it.
    """
    chosen = []
    for label in np.unique(labels):
        own = positions[labels[positions] == label]
        if not 1 <= n_shot <= len(own):
            raise ValueError(f'n_shot={n_shot} must be within 1..{len(own)}, the images of class {CLASSES[label]!r}')
        rng = np.random.default_rng((seed, int(label)))
        chosen.append(rng.permutation(own)[:n_shot])
    return np.concatenate(chosen)


def enlarge(image: np.ndarray) -> np.ndarray:
    """Enlarge a grey image to 32x32 with cubic interpolation and give it three equal channels.

    Args:
        image: uint8 ``(H, W)``.

    Returns:
        uint8 ``(32, 32, 3)``.
    """
    large = cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
    return np.repeat(large[:, :, None], 3, axis=2)


@register(DATASETS)
class Digits(BaseDataset):
    """Real 8x8 handwritten digits, enlarged to 32x32.

    Args:
        split: ``'train'`` (a pool of 80 images per class), ``'val'`` (40 per class, for choosing hyper-parameters) or
            ``'test'`` (597 images).
        n_shot: Keep this many images of each class; None keeps all.
        seed: Which images ``n_shot`` keeps.
        repeat: List every image this many times, so that an epoch over few images is longer.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...).

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: An unknown split, or ``n_shot``, ``seed`` or ``repeat`` out of range.
    """

    METAINFO = dict(classes=CLASSES)

    def __init__(
        self,
        split: str = 'train',
        n_shot: int | None = None,
        seed: int = 0,
        repeat: int = 1,
        pipeline: Sequence = (),
        **kwargs: Any,
    ) -> None:
        if seed < 0 or repeat < 1:
            raise ValueError(f'seed={seed} must be at least 0 and repeat={repeat} at least 1')
        self.split, self.repeat = split, repeat
        images, self._labels = load_digits()
        self._positions = split_positions(self._labels, split)
        if n_shot is not None:
            self._positions = few_shot_positions(self._labels, self._positions, n_shot, seed)
        self._images = {int(i): enlarge(images[i]) for i in self._positions}
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images by label and by position in scikit-learn's array."""
        rows = [dict(gt_label=int(self._labels[i]), position=int(i)) for i in self._positions]
        return [dict(row) for _ in range(self.repeat) for row in rows]

    def prepare_data(self, idx: int) -> Any:
        """Fetch the image and run the pipeline on ``img`` (uint8 HWC), ``gt_label``, ``position``, ``sample_idx``."""
        info = self.get_data_info(idx)
        image = self._images[info['position']].copy()
        info.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return self.pipeline(info)

    def extra_repr(self) -> list[str]:
        """Describe the split for ``repr``."""
        return [f'Split: \t{self.split}']
