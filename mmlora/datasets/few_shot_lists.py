"""Choosing K images of each class from a list: seeded, nested and independent of the order of the list."""

from collections.abc import Sequence

from ..randomness import derive_seed
from .list_files import ListedImage

_SHOWN = 5  # Classes that an error lists.


def choose_few_shot(
    images: Sequence[ListedImage],
    num_classes: int,
    n_shot: int,
    *,
    exp: int = 1,
    seed: int = 0,
    with_negatives: bool = False,
) -> tuple[list[ListedImage], dict[int | None, int]]:
    """Choose ``n_shot`` different images of each class.

    The images of a class are ordered by a hash of seed, ``exp``, class and name, and the first ``n_shot`` are taken:
    with the same seed and ``exp``, a larger choice contains every smaller one, on every machine. In a multi-label list
    each class chooses among all images that have it. An image that several classes choose is listed once, so that a
    class may have more than ``n_shot`` images.

    Args:
        images: The list; repeated images count once.
        num_classes: Number of classes C.
        n_shot: Images of each class, at least 1.
        exp: Number of the choice, from 1.
        seed: Seed of all choices, at least 0.
        with_negatives: Choose ``n_shot`` images without any class too, as though they were one more class.

    Returns:
        The chosen images, class by class, and how many images there are of each class that has fewer than ``n_shot``;
        the key None stands for the images without any class.

    Raises:
        ValueError: A number is out of range.
    """
    if n_shot < 1 or exp < 1 or seed < 0:
        raise ValueError(f'n_shot={n_shot} and exp={exp} must be at least 1, and seed={seed} at least 0')
    members: dict[int | None, list[ListedImage]] = {label: [] for label in range(num_classes)}
    if with_negatives:
        members[None] = []
    for image in {image.name: image for image in images}.values():
        for label in image.classes or (None,):
            if label in members:
                members[label].append(image)
    chosen: dict[str, ListedImage] = {}
    for label, own in members.items():
        key = -1 if label is None else label
        own.sort(key=lambda image: (derive_seed('few-shot', seed, exp, key, image.name), image.name))
        chosen.update((image.name, image) for image in own[:n_shot])
    return list(chosen.values()), {label: len(own) for label, own in members.items() if len(own) < n_shot}


def describe_short(short: dict[int | None, int], n_shot: int, classes: Sequence[str] = ()) -> str:
    """Say which classes have too few images.

    Args:
        short: Number of images by class, as :func:`choose_few_shot` returns it.
        n_shot: How many were asked for.
        classes: Names of the classes, if known.
    """
    def name(label: int | None) -> str:
        return 'no class' if label is None else f'class {label}' + (f' ({classes[label]})' if classes else '')

    shown = [f'{name(label)} has {have}' for label, have in list(short.items())[:_SHOWN]]
    more = f' and {len(short) - _SHOWN} more' if len(short) > _SHOWN else ''
    return f'{", ".join(shown)}{more} of the {n_shot} images asked for'


def format_line(image: ListedImage, num_classes: int, between: str = ',') -> str:
    """Write the line of a list; see :mod:`.list_files`.

    Args:
        image: The image.
        num_classes: Number of classes, for a multi-label list.
        between: What stands between the 0s and 1s.
    """
    if isinstance(image.label, tuple):
        return f'{image.name} {between.join(str(int(label in image.label)) for label in range(num_classes))}'
    return f'{image.name} {image.label}'
