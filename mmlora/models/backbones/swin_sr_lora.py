"""SR-LoRA on a Swin transformer; see :mod:`.sr_lora`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmpretrain.models import SwinTransformer

from ...registry import MODELS, register
from .sr_lora import SRLoRA
from .swin_loading import SwinLoading, block_sites


@register(MODELS, 'SwinTransformerSR_LoRA', 'SwinSRLoRA')
class SwinSR_LoRA(SwinLoading, SRLoRA, SwinTransformer):
    """mmpretrain's ``SwinTransformer`` with the arguments of :class:`SRLoRA`; ranks are ``[stage][block]``."""

    bare = SwinTransformer
    attention = ('attn.w_msa.qkv', 'attn.w_msa.proj')

    @classmethod
    def _sites(cls, arch: Mapping[str, Any], ends: Sequence[str]) -> list:
        return block_sites(arch, ends)
