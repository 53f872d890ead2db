"""RLRR on a Swin transformer; see :mod:`.rlrr`."""

from collections.abc import Mapping
from typing import Any

from mmpretrain.models import SwinTransformer

from ...registry import MODELS, register
from .biases import swin_with_biases
from .rlrr import RLRR
from .swin_loading import SwinLoading, block_sites


@register(MODELS, 'RLRR-Swin')
class RLRRSwin(SwinLoading, RLRR, SwinTransformer):
    """mmpretrain's ``SwinTransformer`` with the arguments of :class:`RLRR`.

    RLRR on the fused qkv as one weight, proj, both layers of the feed-forward network and the reduction of each patch
    merging, which gets a bias by it; scale and shift on both normalisations of a block and that of each output. Ranks
    are ``[stage][block]``, and at the end of each stage but the last the rank of its reduction.
    """

    bare = SwinTransformer
    linears = ('attn.w_msa.qkv', 'attn.w_msa.proj', 'ffn.layers.0.0', 'ffn.layers.1')
    scale_shift = (r'stages\.\d+\.blocks\.\d+\.norm[12]', r'norm\d+')
    default_slices = None
    default_drop_mode = 'path'

    @classmethod
    def _sites(cls, arch: Mapping[str, Any]) -> list:
        stages = block_sites(arch, cls.linears)
        last = len(stages) - 1
        return [
            blocks + ([f'stages.{stage}.downsample.reduction'] if stage < last else [])
            for stage, blocks in enumerate(stages)
        ]

    @classmethod
    def merged_config(cls, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the backbone without adapters that takes the merged weights: its reductions have a bias.

        Args:
            cfg: The config of the adapted backbone.
        """
        return swin_with_biases(cls.bare_config(cfg))
