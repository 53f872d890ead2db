"""Choosing K images of each class as CoOp and as CLIP-LoRA do, and halving the classes.

Both draw from one generator that is seeded once, CoOp first the training and then the validation images, CLIP-LoRA the
other way round, so that one seed gives them different images. Of ImageNet, CLIP-LoRA takes both from the training
images at once.

Deviation from the published code: the generator is an own one, not that of the process, so that what else has been
drawn does not count. The images are those of the published code, in its order.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .list_files import ListedImage

VAL_SHOTS = 4  # At most so many of each class validate.
SUBSETS = ('all', 'base', 'new')
Drawn = tuple[list[ListedImage], list[ListedImage] | None]


def sample(images: Sequence[ListedImage], n_shot: int, rng: random.Random) -> list[ListedImage]:
    """Choose images of each class, the classes in the order in which they first appear.

    Args:
        images: The images.
        n_shot: How many of each class; of a class that has fewer some are taken more than once.
        rng: The generator.
    """
    chosen: list[ListedImage] = []
    for own in _by_label(images).values():
        chosen += rng.sample(own, n_shot) if len(own) >= n_shot else rng.choices(own, k=n_shot)
    return chosen


def draw_coop(train: Sequence[ListedImage], val: Sequence[ListedImage] | None, n_shot: int, seed: int) -> Drawn:
    """Draw as CoOp does: ``n_shot`` of each class of train, then ``min(n_shot, 4)`` of val.

    Args:
        train: Training images.
        val: Validation images; None where there are none.
        n_shot: How many of each class to train on.
        seed: Seed of the draw.

    Returns:
        What is drawn from train, and from val.
    """
    rng = random.Random(seed)
    chosen = sample(train, n_shot, rng)
    return chosen, None if val is None else sample(val, min(n_shot, VAL_SHOTS), rng)


def draw_clip_lora(train: Sequence[ListedImage], val: Sequence[ListedImage] | None, n_shot: int, seed: int) -> Drawn:
    """Draw as CLIP-LoRA does: ``min(n_shot, 4)`` of each class of val, then ``n_shot`` of train; see :func:`draw_coop`.

    Without validation images both come from train, none twice.

    Raises:
        ValueError: There are no validation images, and a class of train has too few for both.
    """
    rng = random.Random(seed)
    held = min(n_shot, VAL_SHOTS)
    if val is not None:
        chosen_val = sample(val, held, rng)
        return sample(train, n_shot, rng), chosen_val
    chosen, left = [], []
    for label, own in _by_label(train).items():
        if len(own) < n_shot + held:
            raise ValueError(f'class {label} has {len(own)} training images, such as {own[0].name!r}, where {n_shot} '
                             f'for training and {held} for validation are drawn: ask for fewer shots, or take all '
                             'images with shot=None (n_shot=None of a data set)')
        drawn = rng.sample(own, n_shot + held)
        chosen += drawn[:n_shot]
        left += drawn[n_shot:]
    return chosen, left


SAMPLINGS: Mapping[str, Callable[..., Drawn]] = MappingProxyType({'coop': draw_coop, 'clip_lora': draw_clip_lora})
"""How images are drawn, by name."""


def classes_of(num_classes: int, subset: str) -> range:
    """Return the labels of a subset: all, the first half (``'base'``, rounded up) or the others (``'new'``).

    Args:
        num_classes: Number of classes C.
        subset: ``'all'``, ``'base'`` or ``'new'``.
    """
    half = math.ceil(num_classes / 2)
    return {'all': range(num_classes), 'base': range(half), 'new': range(half, num_classes)}[subset]


def _by_label(images: Sequence[ListedImage]) -> dict[int, list[ListedImage]]:
    groups: dict[int, list[ListedImage]] = {}
    for image in images:
        groups.setdefault(image.label, []).append(image)
    return groups
