"""Configs of plain backbones whose layers have the biases that merging a shift needs a place for."""

from collections.abc import Callable, Mapping
from typing import Any

from mmpretrain.models import SwinTransformer, VisionTransformer
from mmpretrain.registry import MODELS as PRETRAIN_MODELS


def vit_with_biases(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a ViT whose patch embedding and qkv have biases; with ``pre_norm`` patches have none."""
    patches = cfg.get('patch_cfg', {})
    new = {} if patches.get('bias', not cfg.get('pre_norm', False)) else dict(patch_cfg={**patches, 'bias': True})
    return {**cfg, **new, **(dict() if cfg.get('qkv_bias', True) else dict(qkv_bias=True))}


def swin_with_biases(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a Swin whose reductions have biases."""
    stages = cfg.get('stage_cfgs', {})
    new = _reduced(stages) if isinstance(stages, Mapping) else [_reduced(stage) for stage in stages]
    return {**cfg, 'stage_cfgs': new}


def _reduced(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {**stage, 'downsample_cfg': {**stage.get('downsample_cfg', {}), 'bias': True}}


BIASED: dict[type, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    SwinTransformer: swin_with_biases,
    VisionTransformer: vit_with_biases,
}
"""What gives the layers of a backbone biases; others keep those that they have."""


def with_biases(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a plain backbone whose layers all have biases, as far as it is known how.

    Args:
        cfg: The config of a plain backbone; a bare ``type`` is looked up in mmpretrain.
    """
    kind = cfg['type'] if isinstance(cfg['type'], type) else PRETRAIN_MODELS.get(cfg['type'])
    change = next((BIASED[base] for base in kind.__mro__ if base in BIASED), dict)
    return change(cfg)
