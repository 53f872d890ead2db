"""A vision transformer cut below its first block that learns: what comes before is computed once for each image.

Where adapters sit in the last blocks alone, the blocks below see no gradient and never change. As long as images are
not augmented at random, their tokens at the cut can be kept and the rest trained from them::

    prefix, rest = split_backbone(backbone)
    tokens = prefix(images)             # once
    features = rest(tokens)             # in each epoch; equal to backbone(images)

Both parts hold the layers of the backbone itself, so that what trains the rest trains the backbone.
"""

import copy

import torch
import torch.nn as nn
from mmpretrain.models import VisionTransformer
from torch import Tensor


class _Tokens(nn.Module):
    """Takes the place of the patch embedding where tokens are given.

    Args:
        resolution: Rows and columns of patches.
    """

    def __init__(self, resolution: tuple[int, int]) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, tokens: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return tokens, self.resolution


class _Prefix(nn.Module):
    """The frozen blocks of a backbone; always in evaluation mode and without gradients."""

    def __init__(self, blocks: VisionTransformer) -> None:
        super().__init__()
        self.blocks = blocks
        self.train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens at the cut, ``(B, 3, H, W) -> (B, N, C)``."""
        with torch.no_grad():
            return self.blocks(images)[0]

    def train(self, mode: bool = True) -> '_Prefix':
        """Stay in evaluation mode: nothing here learns or draws."""
        self.training = False
        return self


def split_backbone(backbone: VisionTransformer) -> tuple[nn.Module, VisionTransformer]:
    """Return the frozen blocks below the first one that learns, and the rest, which takes their tokens.

    Args:
        backbone: A vision transformer of mmpretrain's kind, such as ``VitSR_LoRA``. It is not changed, and both parts
            hold its layers.

    Returns:
        A module from images ``(B, 3, H, W)`` to tokens ``(B, N, C)`` without a graph, and one from these tokens to what
        the backbone returns for the images, which must have the size that the backbone was built for.

    Raises:
        TypeError: The backbone is of another kind.
        ValueError: The first block learns, or what comes before the blocks does; nothing learns; the blocks below draw
            at random; or an output is taken from them.
    """
    if not isinstance(backbone, VisionTransformer):
        raise TypeError(f'can split vision transformers of mmpretrain, got a {type(backbone).__name__}')
    first = first_learning_block(backbone)
    early = [index for index in backbone.out_indices if index < first]
    if early:
        raise ValueError(f'out_indices {early} lie below block {first}, the first one that learns: leave them out')
    below = copy.copy(backbone)
    below._modules, below.layers = dict(backbone._modules), backbone.layers[:first]
    below.out_indices, below.out_type, below.final_norm = [first - 1], 'raw', False
    drawing = [name for name, module in below.named_modules() if draws(module)]
    if drawing:
        raise ValueError(f'{len(drawing)} layers below block {first} draw at random in training, such as '
                         f'{drawing[0]!r}: their outputs cannot be kept. Set drop_rate and drop_path_rate to 0')
    rest = copy.copy(backbone)
    rest._modules, rest._parameters = dict(backbone._modules), dict(backbone._parameters)
    rest.layers, rest.pre_norm = backbone.layers[first:], nn.Identity()
    rest.patch_embed, rest.cls_token = _Tokens(backbone.patch_resolution), None
    rest.pos_embed = nn.Parameter(torch.zeros_like(backbone.pos_embed[:, :1]), requires_grad=False)
    rest.out_indices = [index - first for index in backbone.out_indices]
    return _Prefix(below), rest


def first_learning_block(backbone: VisionTransformer) -> int:
    """Return the number of the first block with parameters that learn.

    Raises:
        ValueError: Something before the second block learns, or no block does.
    """
    blocks = [any(p.requires_grad for p in layer.parameters()) for layer in backbone.layers]
    if True not in blocks:
        raise ValueError('no block of this backbone learns: keep its features instead')
    first = blocks.index(True)
    stem = [name for name, p in backbone.named_parameters()
            if p.requires_grad and name.split('.')[0] not in ('layers', 'ln1', 'ln2')]
    if stem or not first:
        what = stem[0] if stem else 'block 0'
        raise ValueError(f'{what} learns, so that nothing below can be kept: adapt the last blocks alone, with ranks '
                         'of 0 for the first ones in lora_ranks')
    return first


def draws(module: nn.Module) -> bool:
    """Say whether a layer drops something at random in training."""
    return any(isinstance(p, float) and p > 0 for p in (getattr(module, 'drop_prob', 0), getattr(module, 'p', 0)))
