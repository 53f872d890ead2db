"""How VTAB-1k is made from tensorflow_datasets: which images, and what are their labels (Zhai et al., 1910.04867).

The rules are those of the script ``get_vtab1k.py`` (Zhang et al., NOAH, arXiv 2206.04673), from which the lists in use
come, and of ``task_adaptation`` (Apache-2.0), which that script carries. Its four lists are the first 800 training
images, the first 200 validation images, both together, and all test images, in the order of tensorflow_datasets.

Nothing here needs tensorflow: an example is a mapping from the names of its features to numpy arrays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

Example = Mapping[str, Any]

CLEVR_DISTANCES = (8.0, 8.5, 9.0, 9.5, 10.0)
KITTI_DISTANCES = (8.0, 20.0, 999.0)
KITTI_VEHICLES = 3  # Types below are car, van and truck.
NO_VEHICLE = 1000.0
TRAIN, VAL = 800, 200


def plain_label(example: Example) -> int:
    """Return the feature ``label``."""
    return int(example['label'])


def clevr_count(example: Example) -> int:
    """Return the number of objects of a picture, of which there are at least 3, less 3."""
    return len(example['objects']['size']) - 3


def clevr_distance(example: Example) -> int:
    """Return how many of five thresholds the distance of the nearest object exceeds."""
    return exceeded(np.min(example['objects']['pixel_coords'][:, 2]), CLEVR_DISTANCES)


def kitti_distance(example: Example) -> int:
    """Return how many of 8 m, 20 m and 999 m the distance of the nearest vehicle exceeds; 3 where there is none."""
    vehicles = np.asarray(example['objects']['type']) < KITTI_VEHICLES
    distances = np.asarray(example['objects']['location'])[vehicles, 2]
    return exceeded(min([NO_VEHICLE, *distances]), KITTI_DISTANCES)


def dsprites_location(example: Example) -> int:
    """Return the column, of 32, in pairs."""
    return int(example['label_x_position']) * 16 // 32


def dsprites_orientation(example: Example) -> int:
    """Return the orientation, of 40 steps, in 16 classes."""
    return int(example['label_orientation']) * 16 // 40


def norb_azimuth(example: Example) -> int:
    """Return the azimuth, of 18 steps."""
    return int(example['label_azimuth'])


def norb_elevation(example: Example) -> int:
    """Return the elevation, of 9 steps."""
    return int(example['label_elevation'])


def exceeded(value: float, thresholds: tuple[float, ...]) -> int:
    """Return how many thresholds lie below a value; one that equals it does not."""
    return sum(bool(threshold < value) for threshold in thresholds)


def colours(example: Example) -> np.ndarray:
    """Return the image ``(H, W, 3)`` as it is."""
    return np.asarray(example['image'])


def grey(example: Example) -> np.ndarray:
    """Return a grey image ``(H, W, 1)`` three times over, as ``(H, W, 3)``."""
    return np.tile(np.asarray(example['image']), (1, 1, 3))


def black_and_white(example: Example) -> np.ndarray:
    """Return an image of 0 and 1 as one of 0 and 255, three times over."""
    return grey(example) * np.uint8(255)


@dataclass(frozen=True)
class Part:
    """A split of tensorflow_datasets from a percentage of its images on.

    Args:
        split: Its name.
        start: The percentage; the place is rounded down to a whole image.
    """

    split: str
    start: int = 0


@dataclass(frozen=True)
class VTABRule:
    """Where a set of VTAB-1k comes from.

    Args:
        source: Name in tensorflow_datasets, with its configuration.
        version: Version that VPT's instructions give, as the published script asks for no more than its first number.
        val: Where validation images come from; the training images are the first of ``train``.
        test: Where test images come from.
        sizes: Number of images of each split that is cut, since the place of a cut depends on it.
        label: What an example's label is.
        image: What its image is, ``(H, W, 3)`` of bytes.
    """

    source: str
    version: str
    val: Part = Part('validation')
    test: Part = Part('test')
    sizes: Mapping[str, int] = field(default_factory=dict)
    label: Callable[[Example], int] = plain_label
    image: Callable[[Example], np.ndarray] = colours

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are read."""
        return tuple(dict.fromkeys(('train', self.val.split, self.test.split)))


_CLEVR = dict(source='clevr', version='3.1.0', val=Part('train', 90), test=Part('validation'), sizes={'train': 70000})
_DSPRITES = dict(
    source='dsprites', version='2.0.0', val=Part('train', 80), test=Part('train', 90), sizes={'train': 737280},
    image=black_and_white,
)  # yapf: disable
_NORB = dict(
    source='smallnorb', version='2.0.0', val=Part('test'), test=Part('test', 50), sizes={'test': 24300}, image=grey
)
VTAB_RULES: Mapping[str, VTABRule] = MappingProxyType({
    'cifar': VTABRule('cifar100', '3.0.2', Part('train', 90), sizes={'train': 50000}),
    'caltech101': VTABRule('caltech101', '3.0.1', Part('train', 90), sizes={'train': 3060}),
    'dtd': VTABRule('dtd', '3.0.1'),
    'oxford_flowers102': VTABRule('oxford_flowers102', '2.1.1'),
    'oxford_iiit_pet': VTABRule('oxford_iiit_pet', '3.2.0', Part('train', 80), sizes={'train': 3680}),
    'svhn': VTABRule('svhn_cropped', '3.0.0', Part('train', 90), sizes={'train': 73257}),
    'sun397': VTABRule('sun397/tfds', '4.0.0'),
    'patch_camelyon': VTABRule('patch_camelyon', '2.0.0'),
    'eurosat': VTABRule('eurosat/rgb', '2.0.0', Part('train', 60), Part('train', 80), {'train': 27000}),
    'resisc45': VTABRule('resisc45', '3.0.0', Part('train', 60), Part('train', 80), {'train': 31500}),
    'diabetic_retinopathy': VTABRule('diabetic_retinopathy_detection/btgraham-300', '3.0.0'),
    'clevr_count': VTABRule(**_CLEVR, label=clevr_count),
    'clevr_dist': VTABRule(**_CLEVR, label=clevr_distance),
    'dmlab': VTABRule('dmlab', '2.0.1'),
    'kitti': VTABRule('kitti', '3.2.0', label=kitti_distance),
    'dsprites_loc': VTABRule(**_DSPRITES, label=dsprites_location),
    'dsprites_ori': VTABRule(**_DSPRITES, label=dsprites_orientation),
    'smallnorb_azi': VTABRule(**_NORB, label=norb_azimuth),
    'smallnorb_ele': VTABRule(**_NORB, label=norb_elevation),
})  # yapf: disable
"""By the names of :data:`mmlora.datasets.VTAB_SETS`."""


def other_sizes(rule: VTABRule, counts: Mapping[str, int]) -> str | None:
    """Return how a split that is cut differs in its number of images from the one that VTAB-1k is cut from, or None.

    Args:
        rule: The rule of a set.
        counts: Number of images of each split in ``rule.splits``.
    """
    for split, size in rule.sizes.items():
        if counts[split] != size:
            return f'its split {split!r} has {counts[split]} images, and VTAB-1k is cut from {size}'
    return None


def vtab_slices(rule: VTABRule, counts: Mapping[str, int]) -> dict[str, str]:
    """Say which images each list holds, in the words of tensorflow_datasets.

    Args:
        rule: The rule of a set.
        counts: Number of images of each split in ``rule.splits``.

    Returns:
        For example ``{'train800': 'train[:800]', 'val200': 'train[16200:16400]', 'train800val200':
        'train[:800]+train[16200:16400]', 'test': 'train[21600:]'}``.
    """
    start = counts[rule.val.split] * rule.val.start // 100
    train, val = f'train[:{TRAIN}]', f'{rule.val.split}[{start or ""}:{start + VAL}]'
    start = counts[rule.test.split] * rule.test.start // 100
    test = f'{rule.test.split}[{start}:]' if start else rule.test.split
    # Both parts are read at once: tensorflow_datasets may then give another order than one after the other.
    return {'train800': train, 'val200': val, 'train800val200': f'{train}+{val}', 'test': test}
