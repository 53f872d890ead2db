"""Where a vision transformer's tokens can be taken away: what token pruning and sparse tokens share."""

import torch
import torch.nn as nn
from torch import Tensor

from .sites import class_path
from .tuning import find_tuning
from .vpt import VPT

LAYER = 'mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer'
"""A layer that normalises by ``ln1``, attends, normalises by ``ln2`` and hands its sum to ``ffn`` as ``identity``."""

ATTENTION = 'mmpretrain.models.utils.attention.MultiheadAttention'
"""Attention that reads q, k and v from one layer ``qkv``, and keeps what attends in an attribute of its own."""


class TokenAdapter:
    """Changes how many tokens pass through a vision transformer, by hooks. It belongs to one transformer at a time."""

    def __init__(self) -> None:
        self._backbone: nn.Module | None = None
        self._handles: list = []

    @property
    def attached(self) -> bool:
        """Whether this belongs to a transformer at present."""
        return self._backbone is not None

    def attach(self, model: nn.Module) -> None:
        """Begin to work in the vision transformer of a model, after all other adapters have their place.

        Args:
            model: A vision transformer, or a model that holds one.

        Raises:
            ValueError: The model holds none that fits or several, or this or another such adapter is attached already.
        """
        backbone = find_vision_transformer(model, type(self).__name__)
        other = vars(backbone).get('token_adapter')
        if self.attached or other is not None:
            first = type(other or self).__name__
            raise ValueError(f'{type(self).__name__} cannot be attached: detach the {first} first')
        self._add(backbone)
        backbone.token_adapter = self
        self._backbone = backbone

    def detach(self) -> None:
        """Take all hooks away. The transformer then computes what it did before.

        Raises:
            ValueError: This is not attached.
        """
        if self._backbone is None:
            raise ValueError(f'{type(self).__name__} is not attached to a model')
        while self._handles:
            self._handles.pop().remove()
        self._remove(self._backbone)
        del self._backbone.token_adapter
        self._backbone = None

    def _add(self, backbone: nn.Module) -> None:
        raise NotImplementedError

    def _remove(self, backbone: nn.Module) -> None:
        """Undo what :meth:`_add` did besides registering hooks."""


def find_vision_transformer(model: nn.Module, wanted_by: str) -> nn.Module:
    """Return the one vision transformer in a model whose patch tokens can be taken away.

    Args:
        model: Any model.
        wanted_by: Who asks, for the message.

    Raises:
        ValueError: There is none or more than one; or it has no class token, further tokens, or prompts.
    """
    found = [module for module in model.modules() if _is_vision_transformer(module)]
    if len(found) != 1:
        raise ValueError(
            f'{wanted_by} needs a model with one VisionTransformer of mmpretrain, such as that of CLIP or an adapted '
            f'one; this {type(model).__name__} has {len(found)}'
        )
    (backbone,) = found
    if backbone.cls_token is None or backbone.num_extra_tokens != 1:
        raise ValueError(f'{wanted_by} needs a transformer with a class token and no other token beside the patches')
    if isinstance(find_tuning(backbone), VPT):
        raise ValueError(f'{wanted_by} does not go with the prompts of VPT, which are no patches')
    return backbone


def patch_grid(model: nn.Module) -> tuple[int, int]:
    """Return how many patches an image of the usual size has, as rows and columns.

    Raises:
        ValueError: The model holds no vision transformer that fits, or several.
    """
    height, width = find_vision_transformer(model, 'a mask of patches').patch_resolution
    return int(height), int(width)


def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Return the tokens ``(B, n, D)`` that stand at positions ``(B, n)`` of ``(B, N, D)``."""
    return x.gather(1, positions[:, :, None].expand(-1, -1, x.shape[2]))


def with_class_token(patches: Tensor) -> Tensor:
    """Return positions ``(B, 1 + n)`` of the class token, 0, and of patches that are counted from 0, ``(B, n)``."""
    return torch.cat([patches.new_zeros(len(patches), 1), patches + 1], dim=1)


def _is_vision_transformer(module: nn.Module) -> bool:
    layers = getattr(module, 'layers', None)
    return (
        isinstance(layers, nn.ModuleList)
        and len(layers) > 0
        and all(class_path(type(layer)) == LAYER and class_path(type(layer.attn)) == ATTENTION for layer in layers)
        and hasattr(module, 'cls_token')
        and hasattr(module, 'patch_resolution')
    )
