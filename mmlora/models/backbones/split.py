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
        extra: Tokens that are no patches.
    """

    def __init__(self, resolution: tuple[int, int], extra: int) -> None:
        super().__init__()
        self.resolution, self.extra = resolution, extra

    def forward(self, tokens: Tensor) -> tuple[Tensor, tuple[int, int]]:
        rows, columns = self.resolution
        if tokens.shape[1] != rows * columns + self.extra:
            raise ValueError(f'the backbone was built for {rows} x {columns} patches and {self.extra} more tokens, got '
                             f'{tokens.shape[1]} tokens: give images of its img_size')
        return tokens, self.resolution


class _Prefix(nn.Module):
    """The frozen blocks of a backbone, without gradients, in the mode that the backbone is in: none of them draws."""

    def __init__(self, blocks: VisionTransformer) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens at the cut, ``(B, 3, H, W) -> (B, N, C)``."""
        with torch.no_grad():
            return self.blocks(images)[0]

    def train(self, mode: bool = True) -> '_Prefix':
        """Leave the mode of the layers to the backbone, whose they are."""
        return self


def split_backbone(backbone: VisionTransformer) -> tuple[nn.Module, VisionTransformer]:
    """Return the frozen blocks below the first one that learns, and the rest, which takes their tokens.

    Args:
        backbone: A vision transformer of mmpretrain's kind, such as ``VitSR_LoRA``. It is not changed, and both parts
            hold its layers.

    Returns:
        A module from images ``(B, 3, H, W)`` to tokens ``(B, N, C)`` without a graph, and one from these tokens to what
        the backbone returns for the images, which must have the size that the backbone was built for; the second one
        refuses tokens of others. Neither has a state to save or load: that of the backbone has all, under its names.

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
    below = _part_of(backbone)
    below.layers = backbone.layers[:first]
    below.out_indices, below.out_type, below.final_norm = [first - 1], 'raw', False
    drawing = [name for name, module in below.named_modules() if draws(module)]
    if drawing:
        raise ValueError(f'{len(drawing)} layers below block {first} draw at random in training, such as '
                         f'{drawing[0]!r}: their outputs cannot be kept. Set drop_rate, drop_path_rate and '
                         'attn_drop_rate to 0')
    rest = _part_of(backbone)
    rest.layers, rest.pre_norm = backbone.layers[first:], nn.Identity()
    rest.patch_embed, rest.cls_token = _Tokens(backbone.patch_resolution, backbone.num_extra_tokens), None
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
    rates = (getattr(module, name, 0) for name in ('p', 'drop_prob', 'attn_drop', 'dropout'))
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _part_of(backbone: VisionTransformer) -> VisionTransformer:
    """Return a twin that holds the same layers, takes hooks of its own, and has no state."""
    twin = copy.copy(backbone)
    vars(twin).update({name: copy.copy(value) for name, value in vars(twin).items() if isinstance(value, dict)})
    twin._load_state_dict_pre_hooks.clear()  # They know the backbone and its names.
    twin._register_load_state_dict_pre_hook(_refuse_state)
    twin.register_state_dict_post_hook(_refuse_state)
    return twin


def _refuse_state(*args: object) -> None:
    raise RuntimeError('a part of a split backbone has no state of its own: save and load that of the backbone, whose '
                       'layers it holds')
