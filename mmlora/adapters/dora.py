"""DoRA of one linear layer: LoRA changes the direction of each row of the weight, its length is learned apart.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353, eq. 5, and section 4.3, where
the norm is a constant to the gradient; in torch's layout, with norms of rows, one for each output::

    W' = m (W + s B A) / |W + s B A|        m starts at |W|

Norms are of the rows that lead to one output, as in the published code and in peft, so that the slices of a fused
projection are decomposed as separate projections are. They are computed from W, A and B by ``|w + s b A|^2 = |w|^2 +
2 s b A w + s^2 b A A^T b^T``, with no dense product.

Deviations from the published code:

- ``lora_magnitude`` is what m has gained over the norm of W, and starts at zero. So a fresh layer fits every weight
  that is loaded, bit for bit, and weight decay draws m to that norm, where that of m itself would draw it to zero.
- Dropout is of the input of A alone, as in LoRA, and not also of the rescaled W x.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .factored import FactoredLinear
from .rlrr import no_autocast


@torch.no_grad()
def row_norms(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return the norms of the rows of W and of ``W + scaling * B A``, ``(rows,)`` each, without gradients.

    Args:
        weight: W, ``(rows, in)``.
        a: ``(r, in)``.
        b: ``(rows, r)``.
        scaling: Factor of the product.
    """
    with no_autocast(weight):  # It would round the norms.
        kind = torch.promote_types(torch.promote_types(weight.dtype, a.dtype), torch.float32)
        wide, a, b = weight.to(kind), a.to(kind), b.to(kind)
        square = wide.square().sum(1)
        mixed = ((wide @ a.t()) * b).sum(1)
        added = ((b @ (a @ a.t())) * b).sum(1)
        return square.sqrt(), (square + 2 * scaling * mixed + scaling**2 * added).clamp(min=0).sqrt()


def dora_scale(weight: Tensor, a: Tensor, b: Tensor, scaling: float, gain: Tensor) -> Tensor:
    """Return ``(|W| + gain) / |W + scaling * B A|`` of each row, ``(rows,)``; 1 for a row that is zero.

    Gradients reach ``gain`` alone.

    Args:
        weight: W, ``(rows, in)``.
        a: ``(r, in)``.
        b: ``(rows, r)``.
        scaling: Factor of the product.
        gain: What the magnitude has gained, ``(rows,)``.
    """
    start, norm = row_norms(weight, a, b, scaling)
    zero = norm == 0
    return torch.where(zero, 1.0, (start + gain) / norm.masked_fill(zero, 1.0))


class DoRALinear(FactoredLinear):
    """A frozen linear layer with ``lora_A`` ``(r, in)``, ``lora_B`` ``(out, r)`` and ``lora_magnitude`` ``(out,)``.

    Fresh tensors leave the function of the layer unchanged, bit for bit.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: One rank for every adapted slice, or ``{slice: rank}``, where rank 0 leaves a slice alone.
        alpha: Numerator of the scaling.
        scaling: ``'alpha/r'``, ``'alpha/sqrt(r)'``, ``'constant'`` (alpha itself) or a number.
        dropout: Probability of dropping an input of A in training, in [0, 1).
        slices: The slices of a fused projection that are adapted; None adapts the projection as one weight.
        layout: Names of all slices in the order of their rows.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`mmlora.adapters.LowRankLinear`.

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
        super().__init__(in_features, out_features, rank, alpha, scaling, dropout, slices, layout, **kwargs)
        self._make()

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of A, B and the gain of the magnitude ``(rows,)``."""
        return {**super().shapes(rank), 'magnitude': (self.part_rows,)}

    def start(self, part: str) -> None:
        """Draw A, and set B and the gain of the magnitude to zero."""
        super().start(part)
        nn.init.zeros_(self.tensor('magnitude', part))

    def growth(self) -> Tensor:
        """Return ``m / |W + s B A| - 1`` of each row, ``(out_features,)``; 0 for the slices left alone."""
        weight, scales = self.frozen_weight, {}
        for part, (a, b) in self.factors().items():
            gain = self.tensor('magnitude', part)
            scales[part] = dora_scale(weight[self.rows(part)], a, b, self._scalings[part], gain) - 1
        return self._stack(scales)

    def magnitudes(self) -> dict[str, Tensor]:
        """Return ``{slice: m}``, the learned length of each row, ``(rows,)``."""
        norms = {part: row_norms(self.frozen_weight[self.rows(part)], *ab, 0.0) for part, ab in self.factors().items()}
        return {part: norm + self.tensor('magnitude', part).detach() for part, (norm, _) in norms.items()}

    def delta(self) -> Tensor:
        """Return the dense change, ``(out_features, in_features)``, with zero rows for the slices left alone."""
        growth = self.growth()[:, None]
        return growth * self.frozen_weight + (1 + growth) * super().delta()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the changed layer, ``(..., in_features) -> (..., out_features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients, which the factors would never get.
        """
        y = F.linear(x, self.weight, self.bias)
        if self.merged:
            self._refuse_if_trained()
            return y
        growth = self.growth()
        base = (y if self.bias is None else y - self.bias).to(growth.dtype)  # W x, without computing it again
        return y + (growth * base + (1 + growth) * self.change(x)).to(y.dtype)


DoRALinear.fused = DoRALinear
