"""SR-LoRA on a vision transformer; see :mod:`.sr_lora`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmpretrain.models import VisionTransformer

from ...registry import MODELS, register
from .sr_lora import SRLoRA


@register(MODELS, 'ViTSR_LoRA', 'VitSRLoRA')
class VitSR_LoRA(SRLoRA, VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with the arguments of :class:`SRLoRA`; ranks are ``[[qkv, proj], ...]``."""

    bare = VisionTransformer
    attention = ('attn.qkv', 'attn.proj')

    @classmethod
    def _sites(cls, arch: Mapping[str, Any], ends: Sequence[str]) -> list:
        return [[f'layers.{block}.{end}' for end in ends] for block in range(arch['num_layers'])]
