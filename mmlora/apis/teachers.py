"""What images can be synthesised from: LoRAs with heads and classes, on one backbone."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch.nn as nn

from ..io.pool import check_names


class Teacher(Protocol):
    """A LoRA and what belongs to it: a member of a hub.

    Attributes:
        name: Its name in the hub.
        classes: Names of the classes, in the order of the labels of its head.
        class_ids: Their numbers in the hub, by which LoRAs share classes.
        base: Hash of the frozen weights.
        weights: Hash of its LoRA and head, or None where it is not known.
    """

    name: str
    classes: Sequence[str]
    class_ids: Sequence[int]
    base: str | None
    weights: str | None


class Teachers(Protocol):
    """What images are made from: teachers on one backbone.

    Attributes:
        members: The teachers.
        mean: Of the pixels in [0, 1] by which images are normalised, by channel.
        std: Standard deviation of the same.
        image_size: Height and width.
    """

    members: Sequence[Teacher]
    mean: Sequence[float]
    std: Sequence[float]
    image_size: tuple[int, int]

    def classifier(self, member: Teacher) -> AbstractContextManager[nn.Module]:
        """Give the classifier of a member, for the length of a ``with`` block: images to logits."""


def check_teachers(members: Sequence[Teacher]) -> None:
    """Check that images of all teachers can go into one pool.

    Raises:
        ValueError: There is none, two have the same name, or they stand on other weights.
    """
    if not members:
        raise ValueError('the hub has no LoRAs to invert')
    check_names(member.name for member in members)
    other = [member.name for member in members if member.base != members[0].base]
    if other:
        raise ValueError(
            f'{", ".join(other[:5])} belong to other base weights than {members[0].name}: invert LoRAs of one backbone '
            'at a time'
        )


def all_classes(members: Sequence[Teacher]) -> dict[int, str]:
    """Return the names of all classes by their numbers, in the order of those.

    Raises:
        ValueError: Two LoRAs give one number to classes of different names.
    """
    found: dict[int, str] = {}
    for member in members:
        for class_id, name in zip(member.class_ids, member.classes, strict=True):
            if found.setdefault(class_id, name) != name:
                raise ValueError(
                    f'class {class_id} is {name!r} in {member.name} and {found[class_id]!r} in another LoRA'
                )
    return dict(sorted(found.items()))
