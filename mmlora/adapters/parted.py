"""An adapted linear whose tensors come by parts: one part for the whole weight, or one for each slice of a fused qkv.

A kind of adapter says which tensors a part has; their names follow from that, so that each kind is written once for a
plain and for a fused projection, where q, k and v are adapted as three weights::

    plain: lora_A        slices='qv': lora_A_q  lora_A_v
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .lora import check_rank
from .low_rank import Factors, LowRankLinear

WHOLE = ('',)
"""The layout of a weight that is adapted as one."""


def ranks_of_parts(
    rank: int | Mapping[str, int],
    slices: Sequence[str] | None,
    layout: Sequence[str],
    in_features: int,
    out_features: int,
) -> dict[str, int]:
    """Return the rank of each adapted slice, in the order of the layout; ``{'': rank}`` for :data:`WHOLE`.

    Args:
        rank: One rank for every adapted slice, or ``{slice: rank}``, where rank 0 leaves a slice alone.
        slices: The slices that are adapted where ``rank`` is one number; None adapts the weight as one.
        layout: Names of all slices in the order of their rows, each of the same number of rows.
        in_features: Size of each input.
        out_features: Size of each output.

    Raises:
        ValueError: The outputs do not divide into the slices, a slice is unknown, none is adapted, or a rank is out of
            range.
        TypeError: A rank is not an integer.
    """
    rows, rest = divmod(out_features, len(layout))
    if rest:
        raise ValueError(f'{out_features} outputs do not divide into the {len(layout)} slices {layout}')
    if slices is None and isinstance(rank, Mapping):
        raise TypeError(f'rank must be an integer where the weight is adapted as one, got {dict(rank)!r}')
    wanted = dict(rank) if isinstance(rank, Mapping) else dict.fromkeys(WHOLE if slices is None else slices, rank)
    unknown = sorted(set(wanted) - set(layout))
    if unknown:
        raise ValueError(f'unknown slices {unknown}: this layer holds {layout}')
    ranks = {
        name: check_rank(wanted[name], in_features, rows, f' of slice {name!r}' if name else '')
        for name in layout
        if name in wanted and (not name or wanted[name] != 0)
    }
    if not ranks:
        raise ValueError(f'no slice is adapted: slices={slices!r}, rank={rank!r}')
    return ranks


class PartedLinear(LowRankLinear):
    """A frozen linear layer with learned tensors for each of its parts.

    Subclasses name the tensors (:meth:`shapes`), call :meth:`_make` at the end of their constructor and say how a part
    starts (:meth:`start`).

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: One rank for every adapted slice, or ``{slice: rank}``, where rank 0 leaves a slice alone.
        slices: The slices of a fused projection that are adapted; None adapts the projection as one weight.
        layout: Names of all slices in the order of their rows, each of the same number of rows.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`LowRankLinear`.

    Raises:
        ValueError: A rank is out of range, or the slices do not fit.
        TypeError: A rank is not an integer.
    """

    additive = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | Mapping[str, int],
        slices: Sequence[str] | None = None,
        layout: Sequence[str] = 'qkv',
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, **kwargs)
        self.layout = WHOLE if slices is None else tuple(layout)
        self._ranks = ranks_of_parts(rank, slices, self.layout, in_features, out_features)
        self.part_rows = out_features // len(self.layout)

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the learned tensors of a part of this rank, by what they are, such as ``'A'``."""
        raise NotImplementedError

    def start(self, part: str) -> None:
        """Let the learned tensors of a part start anew."""
        raise NotImplementedError

    def tensor(self, what: str, part: str) -> Tensor:
        """Return a tensor of a part."""
        return getattr(self, self._name(what, part))

    def rows(self, part: str) -> slice:
        """Return the rows of a part."""
        first = self.layout.index(part) * self.part_rows
        return slice(first, first + self.part_rows)

    def reset_adapter(self) -> None:
        """Let the learned tensors start anew.

        Raises:
            ValueError: The layer is merged.
        """
        self._refuse_if_merged('reset_adapter')
        with torch.no_grad():
            for part in self._ranks:
                self.start(part)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each adapted slice, in the order of the layout; ``{'': rank}`` where there are none."""
        return dict(self._ranks)

    @property
    def scalings(self) -> dict[str, float]:
        """1 for each part, where the kind has no scaling."""
        return dict.fromkeys(self._ranks, 1.0)

    def _make(self) -> None:
        for part, rank in self._ranks.items():
            for what, shape in self.shapes(rank).items():
                empty = torch.empty(*shape, device=self.weight.device, dtype=self.lora_dtype)
                setattr(self, self._name(what, part), nn.Parameter(empty))
        self.reset_adapter()

    def _name(self, what: str, part: str) -> str:
        """Return the name of a tensor of a part."""
        return f'{self.prefix}{what}_{part}' if part else f'{self.prefix}{what}'

    def _stack(self, parts: Mapping[str, Tensor], dim: int = 0) -> Tensor:
        """Return tensors of the rows of their parts as one of all rows, with zeros for the slices left alone."""
        if self.layout == WHOLE:
            return parts['']
        zero = None
        if len(parts) < len(self.layout):
            zero = torch.zeros_like(next(iter(parts.values())))
        return torch.cat([parts.get(name, zero) for name in self.layout], dim)

    def _as_one(self, factors: Factors) -> tuple[Tensor, Tensor]:
        """Return ``(sum of r_s, in)`` and ``(out, sum of r_s)``, whose product holds those of the parts in their rows.

        Args:
            factors: For each part ``(r_s, in)`` and ``(rows, r_s)``.
        """
        if self.layout == WHOLE:
            return factors['']
        none = next(iter(factors.values()))[1].new_zeros(self.part_rows, 0)
        up = torch.block_diag(*(factors[name][1] if name in factors else none for name in self.layout))
        return torch.cat([down for down, _ in factors.values()]), up

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, ranks={self._ranks}'
