"""RLRR of one linear layer: the frozen weight is scaled by rows and columns instead of being added to.

Dong et al., "Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach", CVPR 2024, arXiv
2403.19067, eq. 16 (rank 1, as published) and appendix F (rank r), in torch's layout, W ``(out, in)``::

    y = x (W + W * S_out S_in)^T + b + f        S_out (out, r), S_in (r, in), f (out)

and eq. 20 to merge. The learned tensors are ``rlrr_in`` (``scale_col`` of the published code), ``rlrr_out``
(``scale_line``) and ``rlrr_bias`` (``shift_bias``). In a fused projection each adapted slice has its own, with
``_q``, ``_k`` or ``_v`` at the end: the paper adapts q, k and v as three weights.

The change is applied to the weight and not to the activations: a layer that sees many tokens multiplies by the weight
once that way, and not r + 1 times. The changed weight lives for the product alone and is formed again for the gradient,
so that no second weight is kept (`python -m benchmarks --suite rlrr`).

Deviation from the published code: ``init='identity'``, under which training starts from the function of the frozen
layer. S_in is zero then. With S_out zero instead, a step of Adam would move the mask about 30 times less.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .low_rank import Factors
from .parted import PartedLinear


def rescaled(weight: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Return ``W + W * (S_out S_in)``, ``(out, in)``, in the wider type of the arguments.

    Args:
        weight: W, ``(out, in)``.
        s_out: Scales of the outputs, ``(out, r)``.
        s_in: Scales of the inputs, ``(r, in)``.
    """
    wide = weight.to(torch.promote_types(weight.dtype, s_in.dtype))
    with no_autocast(weight):  # It would round the mask.
        return torch.addcmul(wide, wide, s_out @ s_in)


def no_autocast(tensor: Tensor) -> AbstractContextManager:
    """Return a context without autocast on the device of a tensor."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class _Rescale(torch.autograd.Function):
    """``F.linear(x, rescaled(W, S_out, S_in), bias)``, which keeps the arguments and nothing else for the gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
        with no_autocast(x):
            return F.linear(x, rescaled(weight, s_out, s_in).to(bias.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, weight, _, s_out, s_in = inputs
        ctx.save_for_backward(x, weight, s_out, s_in)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, s_out, s_in = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *needs_scales = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = grad_out = grad_in = None
        wide = torch.promote_types(weight.dtype, s_in.dtype)
        with no_autocast(x):
            rows = grad.reshape(-1, grad.shape[-1])  # (tokens, out)
            if needs_x:
                grad_x = grad @ rescaled(weight, s_out, s_in).to(grad.dtype)
            if needs_bias:
                grad_bias = rows.sum(0)
            if needs_weight or any(needs_scales):
                dense = (rows.t() @ x.reshape(-1, x.shape[-1])).to(wide)  # (out, in)
            if needs_weight:
                grad_weight = rescaled(dense, s_out, s_in).to(weight.dtype)
            if any(needs_scales):
                dense = dense * weight
                grad_out = (dense @ s_in.t().to(wide)).to(s_out.dtype)
                grad_in = (s_out.t().to(wide) @ dense).to(s_in.dtype)
        return grad_x, grad_weight, grad_bias, grad_out, grad_in


def rescaled_linear(x: Tensor, weight: Tensor, bias: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Return ``x (W + W * S_out S_in)^T + bias``, ``(..., in) -> (..., out)``; follows autocast.

    Args:
        x: Input, ``(..., in)``.
        weight: W, ``(out, in)``.
        bias: The whole bias, ``(out,)``.
        s_out: Scales of the outputs, ``(out, r)``.
        s_in: Scales of the inputs, ``(r, in)``.
    """
    kind = x.device.type
    dtype = weight.dtype
    # As of F.linear: autocast leaves float64 alone, and without it x must be of the type of the weight.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        x = x.to(dtype)
    return _Rescale.apply(x, weight, bias.to(dtype), s_out, s_in)


def published_init(s_out: Tensor, s_in: Tensor) -> None:
    """Draw both scales from Kaiming's uniform distribution with a = 0; fan-in is r for S_out and in for S_in."""
    nn.init.kaiming_uniform_(s_in)
    nn.init.kaiming_uniform_(s_out)


def identity_init(s_out: Tensor, s_in: Tensor) -> None:
    """Draw S_out as published and set S_in to zero, so that the mask is zero."""
    nn.init.zeros_(s_in)
    nn.init.kaiming_uniform_(s_out)


INITS: dict[str, Callable[[Tensor, Tensor], None]] = {'published': published_init, 'identity': identity_init}
"""How the scales start. The shift of the bias starts at zero in all of them."""


class RLRRLinear(PartedLinear):
    """A frozen linear layer with ``rlrr_in`` ``(rank, in)``, ``rlrr_out`` ``(out, rank)`` and ``rlrr_bias`` ``(out,)``.

    A layer without a bias gets one by the shift alone.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: Rank of the mask, 1 as published; one number, or ``{slice: rank}``, where rank 0 leaves a slice alone.
        slices: The slices of a fused projection that are adapted, each with scales and a shift of its own; None adapts
            the projection as one weight.
        layout: Names of all slices in the order of their rows, each of the same number of rows.
        init: A name in :data:`INITS`. ``'published'`` does not start at the function of the frozen layer: the mask has
            a standard deviation of 2 / sqrt(in), 0.07 for 768 inputs. ``'identity'`` does, bit for bit.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`LowRankLinear`.

    Raises:
        ValueError: A rank is out of range, the slices do not fit, or the initialisation is unknown.
        TypeError: A rank is not an integer.
    """

    prefix = 'rlrr_'
    shifts = True
    default_slices = 'qkv'
    default_rank = 1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | Mapping[str, int] = 1,
        slices: Sequence[str] | None = None,
        layout: Sequence[str] = 'qkv',
        init: str = 'published',
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, rank, slices, layout, **kwargs)
        if init not in INITS:
            raise ValueError(f'unknown init {init!r}: choose one of {sorted(INITS)}')
        self.init = init
        self._make()

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of S_in ``(r, in)``, S_out ``(rows, r)`` and the shift of the bias ``(rows,)``."""
        return {'in': (rank, self.in_features), 'out': (self.part_rows, rank), 'bias': (self.part_rows,)}

    def start(self, part: str) -> None:
        """Draw the scales and set the shift of the bias to zero."""
        INITS[self.init](self.tensor('out', part), self.tensor('in', part))
        nn.init.zeros_(self.tensor('bias', part))

    def factors(self) -> Factors:
        """Return ``{slice: (S_in, S_out)}``. The shift of the bias is no part of them."""
        return {part: (self.tensor('in', part), self.tensor('out', part)) for part in self._ranks}

    def _scales(self) -> tuple[Tensor, Tensor]:
        """Return S_out ``(out, sum of r_s)`` and S_in ``(sum of r_s, in)`` of the whole weight."""
        s_in, s_out = self._as_one(self.factors())
        return s_out, s_in

    def _whole_bias(self) -> Tensor:
        """Return ``b + f``, ``(out,)``."""
        shift = self._stack({part: self.tensor('bias', part) for part in self._ranks})
        bias = self.frozen_bias
        return shift if bias is None else bias + shift

    def delta(self) -> Tensor:
        """Return ``W * (S_out S_in)``, ``(out_features, in_features)``, with zero rows for the slices left alone."""
        s_out, s_in = self._scales()
        return self.frozen_weight * (s_out @ s_in)

    def changed(self) -> tuple[Tensor, Tensor]:
        """Return ``W + W * (S_out S_in)`` and ``b + f``."""
        return rescaled(self.frozen_weight, *self._scales()), self._whole_bias()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the rescaled layer, ``(..., in_features) -> (..., out_features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients, which the scales would never get.
        """
        if self._pristine is not None:
            self._refuse_if_trained()
            return F.linear(x, self.weight, self.bias)
        return rescaled_linear(x, self.weight, self._whole_bias(), *self._scales())

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, init={self.init!r}'


RLRRLinear.fused = RLRRLinear
