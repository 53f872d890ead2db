"""VPT: learned tokens beside those of the patches.

Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119, eqs. 4 to 8. Prompts stand between the class token and
the patches. Shallow (eqs. 4 to 6): they enter the first layer and pass through all of them. Deep (eqs. 7 and 8): each
layer gets prompts of its own in the place of what the layer before made of its.

They are drawn from U(-v, v) with ``v = sqrt(6 / (3 patch^2 + D))``, as published, and dropped out when they enter.

Each layer of the backbone is given the prompts right before it and freed from them right after it, so that what lies
between the layers, and with it every kind of output, is as without them. Where patches are normalised before the first
layer (``pre_norm``), prompts enter after that.
"""

import math
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .adapted import learned_dtype
from .added import AddedModule
from .sites import class_path
from .tuning import Tuning, check_dropout, check_flag, check_size

LAYERS = {
    'mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer',
    'mmpretrain.models.backbones.deit3.DeiT3TransformerEncoderLayer',
}
"""Layers that take any number of tokens ``(B, N, D)`` and nothing else."""


def insert_prompts(x: Tensor, prompts: Tensor, at: int) -> Tensor:
    """Return ``(B, N + n, D)``: tokens ``(B, N, D)`` with prompts ``(B, n, D)`` behind the first ``at`` of them."""
    return torch.cat([x[:, :at], prompts.to(x.dtype), x[:, at:]], dim=1)


def split_prompts(x: Tensor, n: int, at: int) -> tuple[Tensor, Tensor]:
    """Undo :func:`insert_prompts`: return the tokens ``(B, N, D)`` and the ``n`` prompts ``(B, n, D)``."""
    return torch.cat([x[:, :at], x[:, at + n :]], dim=1), x[:, at : at + n]


class Prompts(AddedModule):
    """The prompts of a vision transformer.

    Args:
        layers: Number of layers with prompts of their own; 1 for shallow prompts.
        num_tokens: Prompts of a layer.
        bound: Prompts are drawn from U(-bound, bound).
        like: A weight of the backbone, for device and type.
        width: D.
        extra: How many tokens, such as that of the class, come before the prompts.
        dropout: Probability of dropping an element of a prompt that enters a layer.
    """

    def __init__(
        self, layers: int, num_tokens: int, bound: float, like: Tensor, width: int, extra: int, dropout: float
    ) -> None:
        super().__init__()
        self.bound, self.extra, self.dropout = bound, extra, dropout
        shape = (layers, num_tokens, width)
        self.tokens = nn.Parameter(torch.empty(shape, device=like.device, dtype=learned_dtype(like)))
        self._passing: Tensor | None = None
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """Draw the prompts anew."""
        nn.init.uniform_(self.tokens, -self.bound, self.bound)

    def enter(self, index: int, layer: nn.Module, args: tuple) -> tuple:
        """Give the tokens ``(B, N, D)`` on their way into a layer its prompts."""
        x, *others = args
        own, self._passing = self._passing, None
        if index < len(self.tokens):
            own = F.dropout(self.tokens[index].expand(len(x), -1, -1), self.dropout, self.training)
        return insert_prompts(x, own, self.extra), *others

    def leave(self, last: bool, layer: nn.Module, args: tuple, out: Tensor) -> Tensor:
        """Take the prompts from what a layer returns; shallow ones are kept for the next."""
        x, own = split_prompts(out, self.tokens.shape[1], self.extra)
        self._passing = own if len(self.tokens) == 1 and not last else None
        return x

    def extra_repr(self) -> str:
        """Return what a reader of ``print(model)`` looks for."""
        layers, num_tokens, width = self.tokens.shape
        return f'layers={layers}, num_tokens={num_tokens}, width={width}, dropout={self.dropout:g}'


class VPT(Tuning):
    """Give a vision transformer learned prompts.

    Args:
        num_tokens: Prompts of a layer, at least 1.
        deep: Whether every layer has prompts of its own.
        dropout: Probability of dropping an element of a prompt in training, in [0, 1).

    Raises:
        TypeError: ``num_tokens`` is not an integer, ``dropout`` no number, or ``deep`` neither True nor False.
        ValueError: An argument is out of range.
    """

    prefix = 'vpt_'
    unmergeable = 'its prompts are tokens, which no weight of the plain backbone holds'

    def __init__(self, num_tokens: int = 10, deep: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        self.num_tokens = check_size('num_tokens', num_tokens)
        self.deep = check_flag('deep', deep)
        self.dropout = check_dropout(dropout)
        self._handles: list = []

    def _add(self, backbone: nn.Module) -> None:
        layers = getattr(backbone, 'layers', None)
        if not isinstance(layers, nn.ModuleList) or not len(layers) or not all(map(_takes_tokens, layers)):
            raise ValueError(
                f'VPT needs a backbone whose layers take any number of tokens, such as VisionTransformer; this '
                f'{type(backbone).__name__} is none. Kinds that fit it: Houlsby and AdaptFormer for Swin, SSF and '
                'BitFit for nearly all'
            )
        weight, width = backbone.patch_embed.projection.weight, backbone.embed_dims
        bound = math.sqrt(6 / (weight[0].numel() + width))
        own = len(layers) if self.deep else 1
        prompts = Prompts(own, self.num_tokens, bound, weight, width, backbone.num_extra_tokens, self.dropout)
        backbone.vpt_prompts = prompts.train(backbone.training)
        for index, layer in enumerate(layers):
            enter, leave = partial(prompts.enter, index), partial(prompts.leave, index == len(layers) - 1)
            self._handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    def _remove(self, backbone: nn.Module) -> None:
        while self._handles:
            self._handles.pop().remove()
        del backbone.vpt_prompts


def _takes_tokens(layer: nn.Module) -> bool:
    return class_path(type(layer)) in LAYERS
