"""A bottleneck: down to few features, an activation, and up again. What Houlsby's adapter and AdaptFormer share."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .adapted import learned_dtype
from .added import AddedModule


def bottleneck(x: Tensor, down: tuple[Tensor, Tensor], act: Callable, up: tuple[Tensor, Tensor], p: float) -> Tensor:
    """Return ``act(x D^T + d) U^T + u``, ``(..., width) -> (..., width)``, with dropout of rate p after the activation.

    Args:
        x: ``(..., width)``.
        down: D ``(bottleneck, width)`` and d ``(bottleneck,)``.
        act: The activation.
        up: U ``(width, bottleneck)`` and u ``(width,)``.
        p: Probability of dropping a feature of the bottleneck; 0 outside of training.
    """
    return F.linear(F.dropout(act(F.linear(x, *down)), p), *up)


class Bottleneck(AddedModule):
    """A bottleneck that adds nothing before it has learned: its way up starts at zero.

    Args:
        width: Features of its input and output.
        bottleneck: Features in between.
        dropout: Probability of dropping one of those in training.
        like: A weight of the backbone, for device and type.
        act: The activation.
        init: Draws the weight of the way down.
        scaling: Of what it returns.
        parallel: Whether a hook adds it to a layer's output by the layer's input, and not by that output itself.
    """

    def __init__(
        self,
        width: int,
        bottleneck: int,
        dropout: float,
        like: Tensor,
        act: Callable[[Tensor], Tensor],
        init: Callable[[Tensor], object],
        scaling: float = 1.0,
        parallel: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.act, self.init, self.scaling, self.parallel = dropout, act, init, scaling, parallel
        own = dict(device=like.device, dtype=learned_dtype(like))
        self.down_weight = nn.Parameter(torch.empty(bottleneck, width, **own))
        self.down_bias = nn.Parameter(torch.empty(bottleneck, **own))
        self.up_weight = nn.Parameter(torch.empty(width, bottleneck, **own))
        self.up_bias = nn.Parameter(torch.empty(width, **own))
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """Draw the weight of the way down anew and set everything else to zero."""
        self.init(self.down_weight)
        for parameter in (self.down_bias, self.up_weight, self.up_bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added, ``(..., width) -> (..., width)``."""
        p = self.dropout if self.training else 0.0
        down, up = (self.down_weight, self.down_bias), (self.up_weight, self.up_bias)
        return bottleneck(x.to(self.down_weight.dtype), down, self.act, up, p) * self.scaling

    def add_to(self, layer: nn.Module, args: tuple, out: Tensor) -> Tensor:
        """Forward hook: return the output of a layer with the bottleneck added to it."""
        return out + self(args[0] if self.parallel else out).to(out.dtype)

    def extra_repr(self) -> str:
        """Return what a reader of ``print(model)`` looks for."""
        narrow, width = self.down_weight.shape
        return f'width={width}, bottleneck={narrow}, dropout={self.dropout:g}, scaling={self.scaling:g}'
