"""The LoRAs of a hub as classifiers to invert: one frozen backbone, and the LoRA and head of one member at a time."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from torch import Tensor

from ..adapters import attach_bank, detach_bank
from ..io.hub import LoRAHub
from ..io.lora_folder import Head
from ..models.backbones.ranks import pretrained_checkpoint
from .hub_members import build_frozen
from .variables import settle_variables


@dataclass(frozen=True)
class HubTeacher:
    """A member of a hub, as :class:`mmlora.apis.teachers.Teacher` describes it."""

    name: str
    classes: Sequence[str]
    class_ids: Sequence[int]
    base: str | None
    weights: str | None = None


class HubClassifier(nn.Module):
    """Backbone, neck and head of a member.

    Args:
        backbone: Gives a tuple whose last entry is ``(B, D)``, or what the neck takes.
        neck: Takes and gives a tuple; None where there is none.
        head: Of the member.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module | None, head: Head) -> None:
        super().__init__()
        like = next(backbone.parameters())
        self.backbone, self.neck = backbone, neck
        self.register_buffer('weight', head.weight.to(like.device, torch.float32))
        self.register_buffer('bias', head.bias.to(like.device, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, n)`` of normalised images ``(B, C, H, W)``.

        Raises:
            ValueError: The head is for features of another width.
        """
        out = self.backbone(x.to(next(self.backbone.parameters()).dtype))
        features = (self.neck(out) if self.neck is not None else out)[-1]
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise ValueError(
                f'the heads of the hub are for features of width {self.weight.shape[1]}, but the backbone gives '
                f'{tuple(features.shape)}: name the config that the hub was made by'
            )
        return nn.functional.linear(features.to(self.weight.dtype), self.weight, self.bias)


class HubTeachers:
    """All members of a hub, or some, on their backbone.

    Args:
        hub: The hub.
        backbone: Plain, with the weights that the members stand on.
        digest: Hash of these weights, as the hub knows it.
        neck: Takes and gives a tuple; None where there is none.
        image_size: Height and width, where the backbone does not say them.
        members: Names of the members; by default all.

    Raises:
        ValueError: The members stand on other weights, one is unknown, or the size of images is not known.
    """

    def __init__(
        self,
        hub: LoRAHub,
        backbone: nn.Module,
        digest: str,
        neck: nn.Module | None = None,
        image_size: tuple[int, int] | None = None,
        members: Sequence[str] | None = None,
    ) -> None:
        hub.check_base(digest)
        unknown = sorted(set(members or ()) - set(hub))
        if unknown:
            raise ValueError(f'{hub.folder} has no member {unknown[0]!r}, it has {", ".join(list(hub)[:5])} ...')
        own = getattr(backbone, 'img_size', None)
        if own is None and image_size is None:
            raise ValueError(f'a {type(backbone).__name__} does not say how large its images are: give image_size')
        if own is not None and image_size is not None and tuple(own) != tuple(image_size):
            raise ValueError(f'the backbone is made for images of {tuple(own)} pixels, not {tuple(image_size)}: set '
                             'img_size in the config')
        image_size = own or image_size
        self.hub, self.backbone, self.neck = hub, backbone, neck
        self.image_size = tuple(image_size)
        self.mean = tuple(value / 255 for value in hub.normalization['mean'])
        self.std = tuple(value / 255 for value in hub.normalization['std'])
        self.members = [
            HubTeacher(name, hub.classes(name), tuple(record['class_ids']), digest, hub.digest(name))
            for name, record in hub.records.items()
            if members is None or name in members
        ]

    @contextmanager
    def classifier(self, member: HubTeacher) -> Iterator[HubClassifier]:
        """Give the classifier of a member, for the length of a ``with`` block.

        Raises:
            ValueError: The member has no head, or its LoRA does not fit the backbone.
        """
        found = self.hub[member.name]
        if found.head is None:
            raise ValueError(f'member {member.name!r} of {self.hub.folder} has no head, so it is no classifier')
        try:
            attach_bank(self.backbone, [found.weights])
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f'the LoRA of member {member.name!r} of {self.hub.folder} does not fit a '
                f'{type(self.backbone).__name__} ({error}): name the config that the hub was made by'
            ) from error
        try:
            yield HubClassifier(self.backbone, self.neck, found.head)
        finally:
            detach_bank(self.backbone)


def open_teachers(
    folder: str | os.PathLike,
    cfg: Config,
    device: str | None = None,
    image_size: tuple[int, int] | None = None,
    members: Sequence[str] | None = None,
) -> HubTeachers:
    """Open a hub on the backbone of a config.

    The config is named by the user, and not read from the hub: a hub is data, and building a model runs what its config
    names.

    Args:
        folder: The hub.
        cfg: Says what the backbone is and which weights it has, such as the config that the hub was made by.
        device: Where the backbone lies; None takes a GPU where there is one.
        image_size: As for :class:`HubTeachers`.
        members: As for :class:`HubTeachers`.

    Raises:
        FileNotFoundError: There is no hub.
        ValueError: The config names no weights, or the hub stands on others, or the LoRAs were trained on images with
            red and blue swapped.
    """
    hub, cfg = LoRAHub.open(folder), copy.deepcopy(cfg)
    if pretrained_checkpoint((cfg.get('model') or {}).get('backbone', {}).get('init_cfg')) is None:
        raise ValueError(
            "the config must give model.backbone init_cfg=dict(type='Pretrained', checkpoint=...): the weights that "
            f'the LoRAs of {os.fspath(folder)} stand on'
        )
    settle_variables(cfg)
    if not hub.normalization.get('to_rgb') and _loads_bgr(cfg.get('hub_sources')):
        raise ValueError(
            f'the images of {os.fspath(folder)} are read as BGR (LoadImageFromFile) and stayed so (to_rgb=False): '
            'the prior and the pool would have red and blue swapped. Make the hub with data_preprocessor=dict('
            'to_rgb=True, ...)'
        )
    frozen, digest = build_frozen(cfg, device)
    return HubTeachers(hub, frozen.backbone, digest, frozen.neck, image_size, members)


def _loads_bgr(part: Any) -> bool:
    """Tell whether a part of a config reads images of three channels with mmcv, whose order is BGR."""
    if isinstance(part, Mapping):
        loads = str(part.get('type')).rpartition('.')[2] == 'LoadImageFromFile'
        return (loads and part.get('color_type') != 'grayscale') or any(map(_loads_bgr, part.values()))
    return isinstance(part, (list, tuple)) and any(map(_loads_bgr, part))
