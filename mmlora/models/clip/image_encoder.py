"""CLIP's vision tower with its projection, as a backbone: what is left of CLIP where the classes have no names."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor

from ...io.convert import Converted
from ...registry import MODELS, register
from ..pretrained import fit_weights
from .arch import CLIPArch, find_arch
from .classifier import CLIPProjection
from .vision import LoRACLIPVision


@register(MODELS)
class CLIPImageEncoder(BaseModule):
    """Gives the features that CLIP compares with texts, not normalised.

    The tower is plain and lies in ``visual``, the projection in ``visual_proj``, as in ``LoRACLIPClassifier``: adapters
    of the one have the names of the other.

    Args:
        arch: A name in :data:`mmlora.models.clip.arch.ARCHS`, or the fields of :class:`CLIPArch`.
        image_size: Takes the place of that of the arch.
        vision: Further arguments of the tower, such as ``patch_cfg``.
        frozen: False lets all weights learn.
        init_cfg: Where the weights come from: those of OpenAI, open_clip or Hugging Face are understood.

    Raises:
        ValueError: The arch is unknown, or has no ``embed_dim``.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] | CLIPArch = 'ViT-B/16',
        image_size: int | None = None,
        vision: Mapping[str, Any] | None = None,
        frozen: bool = True,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        sizes = find_arch(arch, image_size)
        if not sizes.embed_dim:
            raise ValueError(f'the projection needs the embed_dim of the arch, got {arch!r}')
        self.visual = LoRACLIPVision(sizes, params=None, **(vision or {}))
        self.visual_proj = CLIPProjection(sizes.vision_width, sizes.embed_dim)
        if not frozen:
            self.requires_grad_(True)

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.visual.img_size

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        """Return the features of images ``(B, 3, H, W)``, ``((B, embed_dim),)``."""
        return (self.visual_proj(self.visual(inputs)[-1]),)

    def fit_converted(
        self,
        converted: Converted,
        where: str,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        source_grid: Any = None,
    ) -> dict[str, Tensor]:
        """Return weights of another layout under the names of this model; as ``fit_weights`` does.

        Raises:
            ValueError: They are not those of a CLIP of these sizes, or have no projection.
        """
        aside = {key: value for key, value in converted.aside.items() if key != 'visual_proj'}
        tower = dataclasses.replace(converted, aside=aside)
        vision = fit_weights(tower, self.visual, where, allow_missing, allow_unexpected, source_grid)
        own, found = tuple(self.visual_proj.proj.shape), converted.aside.get('visual_proj')
        if found is None or tuple(found.shape) != own:
            has = 'none' if found is None else f'one of {tuple(found.shape)}'
            raise ValueError(f'{where} ({converted.layout.title}): the model has a projection of {own}, the file {has}')
        return {f'visual.{key}': value for key, value in vision.items()} | {'visual_proj.proj': found}
