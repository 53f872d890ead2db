"""RLRR on a vision transformer; see :mod:`.rlrr`."""

from collections.abc import Mapping
from typing import Any

from mmpretrain.models import VisionTransformer

from ...registry import MODELS, register
from .biases import vit_with_biases
from .rlrr import RLRR


@register(MODELS, 'RLRR-ViT')
class RLRRViT(RLRR, VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with the arguments of :class:`RLRR`.

    RLRR on qkv (q, k and v with scales of their own), proj and both layers of the feed-forward network; scale and shift
    on both normalisations of a block, the final one and the patch embedding. Ranks are
    ``[[qkv, proj, fc1, fc2], ...]``.
    """

    bare = VisionTransformer
    linears = ('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1')
    scale_shift = ('ln1', 'ln2', 'patch_embed.projection')
    default_slices = 'qkv'
    default_drop_mode = 'dropout'

    @classmethod
    def _sites(cls, arch: Mapping[str, Any]) -> list:
        return [[f'layers.{block}.{end}' for end in cls.linears] for block in range(arch['num_layers'])]

    @classmethod
    def merged_config(cls, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the backbone without adapters that takes the merged weights: its layers have biases.

        Args:
            cfg: The config of the adapted backbone; with ``pre_norm`` the patch embedding has no bias of its own.
        """
        return vit_with_biases(cls.bare_config(cfg))
