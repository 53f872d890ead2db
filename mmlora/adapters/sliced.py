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

from .lora import LoRALinear, lora_delta, make_dropout
from .low_rank import Factors
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
    names = [name for name in layout if name in factors]
    ranks = [factors[name][0].shape[0] for name in names]
    low = F.linear(x, torch.cat([factors[name][0] for name in names]))  # (..., sum of r_s): x is read once
    scaled = {name: h * scalings[name] for name, h in zip(names, low.split(ranks, dim=-1), strict=True)}
    return expand_slices(scaled, {name: factors[name][1] for name in names}, layout)


def expand_slices(low: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Sequence[str]) -> Tensor:
    """Return ``low B^T`` of each slice beside each other, ``(..., len(layout) * rows)``, zeros where one is missing.

    Few columns are multiplied by all B in one matrix, with zeros where a slice has no part in a column: that writes
    the result once, and is cheaper than to write the slices and copy them beside each other. It takes as many times
    more products as there are slices, so that many columns are multiplied slice by slice.

    Args:
        low: For each adapted slice ``(..., r_s)``.
        b: For each adapted slice B, ``(rows, r_s)``.
        layout: Names of all slices in their order.
    """
    if sum(matrix.shape[1] for matrix in b.values()) > FEW_COLUMNS:
        return join_slices({name: F.linear(low[name], b[name]) for name in low}, layout)
    names = [name for name in layout if name in low]
    rows = b[names[0]].shape[0]
    blocks = [b[name] if name in low else b[names[0]].new_zeros(rows, 0) for name in layout]
    return F.linear(torch.cat([low[name] for name in names], dim=-1), torch.block_diag(*blocks))


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

    separate_dropout = False

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

    def change(self, x: Tensor) -> Tensor:
        """Return what the change adds to the output, ``(..., in_features) -> (..., out_features)``."""
        factors, scalings = self.active()
        if self.separate_dropout and self.training:
            low = {
                name: F.linear(self.lora_dropout(x).to(a.dtype), a) * scalings[name] for name, (a, _) in factors.items()
            }
            return expand_slices(low, {name: b for name, (_, b) in factors.items()}, self.layout)
        x = self.lora_dropout(x).to(next(iter(factors.values()))[0].dtype)
        return sliced_change(x, factors, scalings, self.layout)

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, ranks={self._ranks}'


LoRALinear.fused = SlicedLoRALinear
