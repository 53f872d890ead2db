"""RLRR on a Swin transformer; see :mod:`.rlrr`."""

from collections.abc import Mapping
from typing import Any

from mmpretrain.models import SwinTransformer

from ...registry import MODELS, register
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
        bare = cls.bare_config(cfg)
        stages = bare.get('stage_cfgs', {})
        if isinstance(stages, Mapping):
            return bare | dict(stage_cfgs=_with_bias(stages))
        return bare | dict(stage_cfgs=[_with_bias(stage) for stage in stages])


def _with_bias(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {**stage, 'downsample_cfg': {**stage.get('downsample_cfg', {}), 'bias': True}}
