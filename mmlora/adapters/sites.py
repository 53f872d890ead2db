"""Where in a backbone things are: classes are known by their full names, since this floor knows no OpenMMLab."""

import torch.nn as nn

BYPASSED = {
    ('torch.nn.modules.activation.MultiheadAttention', 'out_proj'),
    ('mmpretrain.models.utils.attention.BEiTAttention', 'qkv'),
    ('mmpretrain.models.utils.attention.WindowMSAV2', 'qkv'),
    ('timm.models.beit.Attention', 'qkv'),
    ('timm.models.swin_transformer_v2.WindowAttention', 'qkv'),
    *(('mmpretrain.models.utils.attention.CrossMultiheadAttention', child) for child in 'qkv'),
}
"""(class, child): layers whose ``weight`` the parent reads itself, so that a changed ``forward`` is never called."""

FEED_FORWARDS = {'mmcv.cnn.bricks.transformer.FFN', 'mmpretrain.models.backbones.deit3.DeiT3FFN'}
"""Feed-forward networks that take a normalised input and keep what comes before the residual sum in ``layers``."""

SAME_FORWARD = {'mmcv.cnn.bricks.wrappers.Linear', 'mmcv.cnn.bricks.wrappers.Conv2d'}
"""Subclasses of layers of torch with a ``forward`` of their own that computes the same."""


def class_path(kind: type) -> str:
    """Return the full name of a class."""
    return f'{kind.__module__}.{kind.__qualname__}'


def computes(layer: nn.Module, plain: type[nn.Module]) -> bool:
    """Return whether a layer is of a class of torch or of a subclass that computes the same."""
    kind = type(layer)
    return isinstance(layer, plain) and (kind.forward is plain.forward or class_path(kind) in SAME_FORWARD)


def place_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds another one, and the name by which it does."""
    path, _, child = name.rpartition('.')
    return model.get_submodule(path), child


def is_among(model: nn.Module, name: str, places: set[tuple[str, str]]) -> bool:
    """Return whether a layer stands in one of the places ``(class, child)``, subclasses included."""
    parent, child = place_of(model, name)
    return bool({(class_path(base), child) for base in type(parent).__mro__} & places)


def bypassed(model: nn.Module, name: str) -> bool:
    """Return whether the module that holds a layer reads its weight and never calls it."""
    return is_among(model, name, BYPASSED)


def feed_forwards(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return the feed-forward networks of a transformer by name."""
    return {
        name: module
        for name, module in backbone.named_modules()
        if any(class_path(base) in FEED_FORWARDS for base in type(module).__mro__)
    }


def projected_attentions(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return the attention modules with a linear layer ``qkv`` and one ``proj`` behind it, by name."""
    return {
        name: module
        for name, module in backbone.named_modules()
        if all(isinstance(getattr(module, child, None), nn.Linear) for child in ('qkv', 'proj'))
    }
