"""RLRR of a convolution: its kernel is scaled as a matrix whose rows and columns each hold one axis of the kernel.

The published code (CVPR 2024, arXiv 2403.19067) sees a kernel ``(out, in, kh, kw)`` as a matrix of
``(out * kh, in * kw)`` and rescales it as the weight of a linear layer; the bias is left alone::

    W'[o, i, a, b] = W[o, i, a, b] * (1 + sum_k S_out[o * kh + a, k] * S_in[k, i * kw + b])
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .adapted import AdaptedLayer, replace_module
from .lora import check_rank
from .rlrr import INITS, rescaled
from .scale_shift import ScaleShiftConv2d
from .targets import select


def rescaled_kernel(weight: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Return the rescaled kernel, ``(out, in, kh, kw)``, in the wider type of the arguments.

    Args:
        weight: ``(out, in, kh, kw)``.
        s_out: Scales of the rows, ``(out * kh, r)``.
        s_in: Scales of the columns, ``(r, in * kw)``.
    """
    out, inputs, kh, kw = weight.shape
    matrix = weight.permute(0, 2, 1, 3).reshape(out * kh, inputs * kw)  # (out, kh, in, kw) as rows and columns
    return rescaled(matrix, s_out, s_in).reshape(out, kh, inputs, kw).permute(0, 2, 1, 3)


class RLRRConv2d(AdaptedLayer, nn.Conv2d):
    """A frozen ``nn.Conv2d`` with ``rlrr_in`` ``(rank, in * kw)`` and ``rlrr_out`` ``(out * kh, rank)``.

    ``in`` is the number of input channels of a group.

    Args:
        *args: Of ``nn.Conv2d``.
        rank: Rank of the mask, 1 as published.
        init: A name in :data:`mmlora.adapters.rlrr.INITS`.
        lora_dtype: Type of the learned tensors, as of :class:`mmlora.adapters.LowRankLinear`.
        **kwargs: Of ``nn.Conv2d``.

    Raises:
        ValueError: The rank is out of range, or the initialisation is unknown.
        TypeError: The rank is not an integer.
    """

    prefix = 'rlrr_'
    shifts = True

    def __init__(
        self,
        *args: Any,
        rank: int = 1,
        init: str = 'published',
        lora_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if init not in INITS:
            raise ValueError(f'unknown init {init!r}: choose one of {sorted(INITS)}')
        self.init = init
        self._prepare(lora_dtype)
        out, inputs, kh, kw = self.weight.shape
        self.rank = check_rank(rank, inputs * kw, out * kh)
        like = dict(device=self.weight.device, dtype=self.lora_dtype)
        self.rlrr_in = nn.Parameter(torch.empty(self.rank, inputs * kw, **like))
        self.rlrr_out = nn.Parameter(torch.empty(out * kh, self.rank, **like))
        self.reset_adapter()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **kwargs: Any) -> 'RLRRConv2d':
        """Adapt an existing layer. The new one takes over its ``weight`` and ``bias`` Parameters, uncopied.

        Args:
            conv: The layer to adapt.
            **kwargs: ``rank``, ``init`` and ``lora_dtype``.

        Raises:
            TypeError: The layer computes something else, or is adapted already.
        """
        if getattr(type(conv), 'forward', None) is not nn.Conv2d.forward:
            raise TypeError(f'can adapt what computes a Conv2d only, got a {type(conv).__name__}')
        own = ScaleShiftConv2d.arguments(conv)
        return cls(**own, device='meta', dtype=conv.weight.dtype, **kwargs)._take_over(conv)

    def reset_adapter(self) -> None:
        """Draw the scales anew."""
        self._refuse_if_merged('reset_adapter')
        INITS[self.init](self.rlrr_out, self.rlrr_in)

    def changed(self) -> tuple[Tensor, Tensor | None]:
        """Return the rescaled kernel and the bias."""
        return rescaled_kernel(self.frozen_weight, self.rlrr_out, self.rlrr_in), self.frozen_bias

    def to_plain(self) -> nn.Conv2d:
        """Return a plain layer that computes the same, in the type of the frozen weight."""
        return self._filled(nn.Conv2d(**ScaleShiftConv2d.arguments(self), device='meta'))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the rescaled convolution, ``(B, in, H, W) -> (B, out, H', W')``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients.
        """
        if self._pristine is not None:
            self._refuse_if_trained()
            return self._conv_forward(x, self.weight, self.bias)
        return self._conv_forward(x, self.changed()[0].to(self.weight.dtype), self.bias)

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, rank={self.rank}, init={self.init!r}'


def inject_rlrr_conv(
    model: nn.Module,
    targets: str | Sequence[str],
    rank: int = 1,
    init: str = 'published',
    lora_dtype: torch.dtype | None = None,
) -> dict[str, RLRRConv2d]:
    """Adapt the convolutions that the patterns name.

    Args:
        model: Changed in place.
        targets: Patterns as in :func:`mmlora.adapters.targets.matches`, for ``nn.Conv2d``.
        rank: Rank of every mask.
        init: A name in :data:`mmlora.adapters.rlrr.INITS`.
        lora_dtype: Type of the learned tensors.

    Returns:
        The adapted layers by name, in the order of the model.

    Raises:
        ValueError: A pattern means no convolution, or an argument does not fit a layer (named).
        TypeError: The rank is not an integer.
    """
    names = [n for n, m in model.named_modules() if getattr(type(m), 'forward', None) is nn.Conv2d.forward]
    adapted = {}
    for name in select(targets, names, 'convolution'):
        try:
            conv = model.get_submodule(name)
            adapted[name] = RLRRConv2d.from_conv(conv, rank=rank, init=init, lora_dtype=lora_dtype)
        except (ValueError, TypeError) as error:
            raise type(error)(f'{name}: {error}') from error
    for name, layer in adapted.items():
        replace_module(model, model.get_submodule(name), layer)
    return adapted
