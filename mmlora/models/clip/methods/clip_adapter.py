"""CLIP-Adapter: a bottleneck behind a frozen tower, blended with what went in.

Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV 2024, arXiv 2110.04544. With
image features f, ``f* = ratio * A(f) + (1 - ratio) * f`` where ``A(f) = ReLU(ReLU(f D^T) U^T)`` (equations 3 to 6);
text features likewise, if asked for. Then cosines are taken, as in CLIP.

As in the published code, and not in the paper's equations, a ReLU follows the way up too, and the layers have no bias.

Deviation: the bottleneck computes in float32 under mixed precision. Text features are normalised, and averaged over
templates, before they enter their bottleneck; with one template that changes nothing, since ``A(c f) = c A(f)``.
"""

import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ....adapters import AddedModule, freeze
from ....registry import MODELS, register
from ..classifier import LoRACLIPClassifier
from ..logits import normalize, wide
from .arguments import check_no_lora, refuse_merging


def blend(features: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
    """Return ``ratio * ReLU(ReLU(f D^T) U^T) + (1 - ratio) * f``.

    Args:
        features: f, ``(B, D)``.
        down: D, ``(bottleneck, D)``.
        up: U, ``(D, bottleneck)``.
        ratio: Between 0 and 1.
    """
    return ratio * F.relu(F.linear(F.relu(F.linear(features, down)), up)) + (1 - ratio) * features


class FeatureAdapter(AddedModule):
    """The bottleneck of one tower.

    Args:
        width: Width of the features.
        reduction: The bottleneck is so many times narrower, rounded down.
        ratio: Weight of what the bottleneck gives.
    """

    def __init__(self, width: int, reduction: int, ratio: float) -> None:
        super().__init__()
        self.scaling = ratio
        self.down = nn.Parameter(torch.empty(width // reduction, width))
        self.up = nn.Parameter(torch.empty(width, width // reduction))
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """Draw both matrices as ``nn.Linear`` does."""
        for weight in (self.down, self.up):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def forward(self, features: Tensor) -> Tensor:
        """Blend features ``(B, width)``, at least in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return blend(wide(features), wide(self.down), wide(self.up), self.scaling)


@register(MODELS, 'CLIP-Adapter')
class CLIPAdapter(LoRACLIPClassifier):
    """CLIP with a learned bottleneck behind the frozen vision tower, the frozen text tower, or both.

    ``2 * embed_dim * (embed_dim // reduction)`` numbers learn for each bottleneck. Images may be given as features of
    the vision tower, ``(B, embed_dim)``.

    Args:
        ratio: Weight of the bottleneck of the images, in [0, 1]; None leaves it out.
        text_ratio: That of the texts; None, as in the published code, leaves it out.
        reduction: A bottleneck is so many times narrower than the features.
        **kwargs: Of :class:`LoRACLIPClassifier`, but for those of LoRA.

    Raises:
        ValueError: A ratio is out of range, both are None, or the reduction is below 1 or leaves nothing.
        TypeError: An argument is unknown, or is about LoRA.
    """

    plain_config = refuse_merging('the bottleneck of CLIP-Adapter is no part of a plain CLIP, so nothing can be merged')

    def __init__(
        self, ratio: float | None = 0.2, text_ratio: float | None = None, reduction: int = 4, **kwargs: Any
    ) -> None:
        check_no_lora('CLIPAdapter', kwargs)
        ratios = {name: value for name, value in dict(ratio=ratio, text_ratio=text_ratio).items() if value is not None}
        for name, value in ratios.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f'{name} must lie in [0, 1] or be None, got {value!r}')
        if not ratios:
            raise ValueError('ratio and text_ratio are None, so nothing would learn: give one a number such as 0.2')
        super().__init__(encoder='none', **kwargs)
        width = self.arch.embed_dim
        if isinstance(reduction, bool) or not isinstance(reduction, int) or not 1 <= reduction <= width:
            raise ValueError(f'reduction must be a whole number in 1..{width}, the width of the features, got '
                             f'{reduction!r}')
        self.image_adapter = None if ratio is None else FeatureAdapter(width, reduction, float(ratio))
        self.text_adapter = None if text_ratio is None else FeatureAdapter(width, reduction, float(text_ratio))
        learned = {name for name, _ in self.named_parameters() if name.split('.')[0].endswith('_adapter')}
        freeze(self, learned | ({'logit_scale'} if self.scale.learned else set()))

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the scaled cosines of blended features of images ``(B, embed_dim)`` and of classes, ``(B, C)``."""
        if self.image_adapter is not None:
            images = self.image_adapter(images)
        if self.text_adapter is not None:
            texts = normalize(self.text_adapter(texts))
        return super().compare(images, texts)
