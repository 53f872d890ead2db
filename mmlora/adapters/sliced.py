"""LoRA of a fused projection: q, k and v lie as row blocks in one weight, and any of them is adapted by itself.

Each adapted slice has factors of its own, with a rank of its own. loralib's ``MergedLinear`` is the special case of
equal ranks, in which its ``lora_A`` stacks the A of the slices by rows, and so does its ``lora_B``::

              in                              in
        +-----------+                   +-----------+
      q |    W_q    |                 q | s B_q A_q |
        +-----------+                   +-----------+
      k |    W_k    |        +        k |     0     |
        +-----------+                   +-----------+
      v |    W_v    |                 v | s B_v A_v |
        +-----------+                   +-----------+
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .lora import LoRALinear, add_product, lora_delta, make_dropout
from .low_rank import Factors
from .low_rank_sum import Product
from .parted import ranks_of_parts
from .sub_rank import SubRankLinear

FEW_COLUMNS = 16
"""Up to so many components of all slices, one product is faster than one for each slice; found by measurement."""


def sliced_change(
    x: Tensor, factors: Mapping[str, tuple[Tensor, Tensor]], scalings: Mapping[str, float], layout: Sequence[str]
) -> Tensor:
    """Return the change of the output of a fused projection, with zeros where a slice has no factors.

    Args:
        x: Input, ``(..., in)``.
        factors: For each adapted slice A ``(r_s, in)`` and B ``(rows, r_s)``; the ranks may differ.
        scalings: Factor of each adapted slice.
        layout: Names of all slices in the order of their rows, each of the same number of rows.

    Returns:
        A tensor of ``(..., len(layout) * rows)``.
    """
    return expand_slices(*reduced(x, factors, scalings), layout)


def reduced(
    x: Tensor, factors: Mapping[str, tuple[Tensor, Tensor]], scalings: Mapping[str, float]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return ``x A^T`` ``(..., r_s)`` and ``scaling * B`` ``(rows, r_s)`` of each adapted slice; x is read once."""
    ranks = [len(a) for a, _ in factors.values()]
    low = F.linear(x, torch.cat([a for a, _ in factors.values()])).split(ranks, dim=-1)
    return dict(zip(factors, low, strict=True)), {name: b * scalings[name] for name, (_, b) in factors.items()}


def block_form(low: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return ``low`` of all slices beside each other, and their B along a diagonal with zeros elsewhere.

    The first, ``(..., sum of r_s)``, times the second, ``(len(layout) * rows, sum of r_s)``, transposed is what
    :func:`expand_slices` returns.
    """
    some = next(iter(b.values()))
    blocks = (b.get(name, some.new_zeros(len(some), 0)) for name in layout)
    return torch.cat([low[name] for name in layout if name in low], dim=-1), torch.block_diag(*blocks)


def few_columns(b: Mapping[str, Tensor]) -> bool:
    """Say whether one product of the :func:`block_form` is faster than one for each slice.

    It writes or adds the result once, where slices must be written and then copied beside each other. But it takes as
    many times more multiplications as there are slices.
    """
    return sum(matrix.shape[1] for matrix in b.values()) <= FEW_COLUMNS


def expand_slices(low: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Sequence[str]) -> Tensor:
    """Return ``low B^T`` of each slice beside each other, ``(..., len(layout) * rows)``, zeros where one is missing.

    Args:
        low: For each adapted slice ``(..., r_s)``.
        b: For each adapted slice B, ``(rows, r_s)``.
        layout: Names of all slices in their order.
    """
    if few_columns(b):
        return F.linear(*block_form(low, b, layout))
    return join_slices({name: F.linear(low[name], b[name]) for name in low}, layout)


def join_slices(parts: Mapping[str, Tensor], layout: Sequence[str]) -> Tensor:
    """Return the slices ``(..., rows)`` beside each other in the order of the layout, zeros where one is missing."""
    zero = None
    if len(parts) < len(layout):
        zero = torch.zeros_like(next(iter(parts.values())))
    return torch.cat([parts.get(name, zero) for name in layout], dim=-1)


class SlicedLoRALinear(SubRankLinear):
    """A frozen fused projection with ``lora_A_<slice>`` ``(r, in)`` and ``lora_B_<slice>`` ``(rows, r)`` each.

    Args:
        in_features: Size of each input.
        out_features: Size of each output, a multiple of the number of slices.
        rank: One rank for every adapted slice, or ``{slice: rank}``; a slice of rank 0 is left alone.
        slices: The slices to adapt, such as ``'qv'`` or ``['q', 'v']``. Ignored for the ranks given by name.
        layout: Names of all slices in the order of their rows.
        alpha: Numerator of the scaling of each slice.
        scaling: As in :class:`LoRALinear`, from the rank of each slice.
        dropout: Probability of dropping an input in training; the slices share the mask, as they share the input,
            unless :attr:`separate_dropout` is set.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`LowRankLinear`.

    Attributes:
        separate_dropout: Whether each slice draws a mask of its own, in the order of the layout, as three separate
            projections would.

    Raises:
        ValueError: The output does not divide into the slices, a slice is unknown, none is adapted, or a rank,
            scaling or dropout is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | Mapping[str, int],
        slices: Sequence[str] = 'qv',
        layout: Sequence[str] = 'qkv',
        alpha: float = 1.0,
        scaling: str | float = 'alpha/r',
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, **kwargs)
        self.layout = tuple(layout)
        self.alpha = float(alpha)
        self._ranks = ranks_of_parts(rank, slices, self.layout, in_features, out_features)
        rows = out_features // len(self.layout)
        self.scaling_rule = scaling
        self._scalings = {name: self.scaling_at(r) for name, r in self._ranks.items()}
        self.lora_dropout = make_dropout(dropout)
        like = dict(device=self.weight.device, dtype=self.lora_dtype)
        for name, r in self._ranks.items():
            setattr(self, f'lora_A_{name}', nn.Parameter(torch.empty(r, in_features, **like)))
            setattr(self, f'lora_B_{name}', nn.Parameter(torch.empty(rows, r, **like)))
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """Draw each A from Kaiming's uniform distribution with a = sqrt(5) and set each B to zero."""
        self._refuse_if_merged('reset_adapter')
        for a, b in self.factors().values():
            nn.init.kaiming_uniform_(a, a=5**0.5)
            nn.init.zeros_(b)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each adapted slice, in the order of the layout."""
        return dict(self._ranks)

    @property
    def scalings(self) -> dict[str, float]:
        """Scaling of each adapted slice."""
        return dict(self._scalings)

    def factors(self) -> Factors:
        """Return ``{slice: (A, B)}`` in the order of the layout."""
        return {name: (getattr(self, f'lora_A_{name}'), getattr(self, f'lora_B_{name}')) for name in self._ranks}

    def delta(self) -> Tensor:
        """Return the dense change, ``(out_features, in_features)``, with zero rows for the slices left alone."""
        factors = self.factors()
        rows = self.out_features // len(self.layout)
        zero = self.weight.new_zeros(rows, self.in_features, dtype=self.lora_dtype)
        return torch.cat(
            [lora_delta(*factors[name], self._scalings[name]) if name in factors else zero for name in self.layout]
        )

    def products(self) -> list[Product]:
        """Return the change as a product for each adapted slice."""
        factors, scalings = self.active()
        rows = self.out_features // len(self.layout)
        starts = {name: place * rows for place, name in enumerate(self.layout)}
        return [Product(starts[n], starts[n] + rows, a, b, scalings[n]) for n, (a, b) in factors.items()]

    def reduced(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return ``A dropout(x)`` and the scaled B of each adapted slice, as :func:`reduced` does."""
        factors, scalings = self.active()
        if self.separate_dropout and self.training:
            low = {name: F.linear(self.lora_dropout(x).to(a.dtype), a) for name, (a, _) in factors.items()}
            return low, {name: b * scalings[name] for name, (_, b) in factors.items()}
        return reduced(self.lora_dropout(x).to(next(iter(factors.values()))[0].dtype), factors, scalings)

    def change(self, x: Tensor) -> Tensor:
        """Return what the change adds to the output, ``(..., in_features) -> (..., out_features)``."""
        return expand_slices(*self.reduced(x), self.layout)

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the output ``y`` of the frozen layer with the change added, ``(..., out_features)``."""
        low, b = self.reduced(x)
        if few_columns(b):
            return add_product(y, *block_form(low, b, self.layout), 1.0)
        return y + expand_slices(low, b, self.layout).to(y.dtype)

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, ranks={self._ranks}'


LoRALinear.fused = SlicedLoRALinear
