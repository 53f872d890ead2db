"""An adapted linear with factors A and B in each of its parts: what the relatives of LoRA share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from .lora import lora_change, lora_delta, make_dropout
from .low_rank import Factors
from .low_rank_sum import Product
from .parted import WHOLE, PartedLinear
from .scaling import resolve_scaling
from .sliced import sliced_change


class FactoredLinear(PartedLinear):
    """A parted layer with factors A and B, a scaling and a dropout, as LoRA has them.

    The change is the scaled product of :meth:`product_factors`, unless a subclass says otherwise.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: As in :class:`PartedLinear`.
        alpha: Numerator of the scaling of each part.
        scaling: As in :class:`mmlora.adapters.LoRALinear`, from the rank of each part.
        dropout: Probability of dropping an input of A in training; the slices share the mask, as they share the input.
        slices: As in :class:`PartedLinear`.
        layout: As in :class:`PartedLinear`.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`LowRankLinear`.

    Raises:
        ValueError: A rank, the scaling or the dropout is out of range, or the slices do not fit.
        TypeError: A rank is not an integer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | Mapping[str, int],
        alpha: float = 1.0,
        scaling: str | float = 'alpha/r',
        dropout: float = 0.0,
        slices: Sequence[str] | None = None,
        layout: Sequence[str] = 'qkv',
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, rank, slices, layout, **kwargs)
        self._scalings = {part: resolve_scaling(scaling, alpha, r) for part, r in self._ranks.items()}
        self.lora_dropout = make_dropout(dropout)

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of A ``(r, in)`` and B ``(rows, r)``."""
        return {'A': (rank, self.in_features), 'B': (self.part_rows, rank)}

    def start(self, part: str) -> None:
        """Draw A from Kaiming's uniform distribution with a = sqrt(5) and set B to zero."""
        nn.init.kaiming_uniform_(self.tensor('A', part), a=5**0.5)
        nn.init.zeros_(self.tensor('B', part))

    @property
    def scalings(self) -> dict[str, float]:
        """Scaling of each part, by the keys of :attr:`ranks`."""
        return dict(self._scalings)

    def factors(self) -> Factors:
        """Return ``{slice: (A, B)}`` in the order of the layout, the learned tensors themselves."""
        return {part: (self.tensor('A', part), self.tensor('B', part)) for part in self._ranks}

    def product_factors(self) -> Factors:
        """Return ``{slice: (A, B)}``, A ``(k, in)``, B ``(rows, k)``, whose scaled product is added to the weight."""
        return self.factors()

    def delta(self) -> Tensor:
        """Return the dense change, ``(out_features, in_features)``, with zero rows for the slices left alone."""
        return self._stack({part: lora_delta(*ab, self._scalings[part]) for part, ab in self.product_factors().items()})

    def products(self) -> list[Product]:
        """Return the change as a product for each part."""
        pairs = self.product_factors().items()
        rows = {part: self.rows(part) for part, _ in pairs}
        return [Product(rows[n].start, rows[n].stop, a, b, self._scalings[n]) for n, (a, b) in pairs]

    def change(self, x: Tensor) -> Tensor:
        """Return what the change adds to the output, ``(..., in_features) -> (..., out_features)``."""
        factors = self.product_factors()
        x = self.lora_dropout(x).to(next(iter(factors.values()))[0].dtype)
        if self.layout == WHOLE:
            return lora_change(x, *factors[''], self._scalings[''])
        return sliced_change(x, factors, self._scalings, self.layout)
