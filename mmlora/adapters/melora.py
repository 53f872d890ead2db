"""MELoRA of one linear layer: several small LoRAs side by side, each from a part of the input to a part of the output.

Ren et al., "MELoRA: Mini-Ensemble Low-Rank Adapters for Parameter-Efficient Fine-Tuning", ACL 2024, arXiv 2402.17263,
section 3.2, with n mini-LoRAs of rank r / n::

            | B_1 A_1               |
    BA  =   |          ...          |        A_i (r/n, in/n), B_i (out/n, r/n)
            |               B_n A_n |

The change has rank r at the cost of rank r / n: ``(in + out) r / n`` parameters.

Deviation from public code: on a fused projection each slice has mini-LoRAs of its own over its own rows. Code that cuts
the stacked rows of q and v into n equal parts gives rows of one projection to another. The scaling is that of the whole
rank r, so that it means the same as in the other kinds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .factored import FactoredLinear
from .low_rank import Factors
from .tuning import check_size


def mini_change(x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return the scaled outputs of the mini-LoRAs side by side, ``(..., in) -> (..., rows)``.

    Args:
        x: Input, ``(..., in)``.
        a: The A of all of them, ``(n, r/n, in/n)``.
        b: The B of all of them, ``(n, rows/n, r/n)``.
        scaling: Factor of the change.
    """
    groups = x.unflatten(-1, (a.shape[0], a.shape[2]))  # (..., n, in/n)
    low = torch.einsum('...gi,gri->...gr', groups, a) * scaling
    return torch.einsum('...gr,gor->...go', low, b).flatten(-2)  # (..., n, rows/n) -> (..., rows)


class MELoRALinear(FactoredLinear):
    """A frozen linear layer with ``lora_A`` ``(n, r/n, in/n)`` and ``lora_B`` ``(n, out/n, r/n)``.

    Fresh factors leave the function of the layer unchanged, bit for bit.

    Args:
        in_features: Size of each input, a multiple of ``num_groups``.
        out_features: Size of each output; that of each part is a multiple of ``num_groups``.
        rank: Rank of the whole change, a multiple of ``num_groups``; one for every adapted slice, or
            ``{slice: rank}``, where rank 0 leaves a slice alone.
        num_groups: Number n of mini-LoRAs. With 1 this is LoRA.
        alpha: Numerator of the scaling.
        scaling: ``'alpha/r'``, ``'alpha/sqrt(r)'``, ``'constant'`` (alpha itself) or a number; r is the whole rank.
        dropout: Probability of dropping an input of A in training, in [0, 1).
        slices: The slices of a fused projection that are adapted; None adapts the projection as one weight.
        layout: Names of all slices in the order of their rows.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`mmlora.adapters.LowRankLinear`.

    Raises:
        ValueError: A rank, the scaling or the dropout is out of range, the slices do not fit, or inputs, outputs or a
            rank do not divide among the mini-LoRAs.
        TypeError: A rank or the number of mini-LoRAs is not an integer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | Mapping[str, int],
        num_groups: int = 2,
        alpha: float = 1.0,
        scaling: str | float = 'alpha/r',
        dropout: float = 0.0,
        slices: Sequence[str] | None = None,
        layout: Sequence[str] = 'qkv',
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, rank, alpha, scaling, dropout, slices, layout, **kwargs)
        self.num_groups = check_size('num_groups', num_groups)
        sizes = {'inputs': in_features, 'outputs': self.part_rows}
        sizes |= {f'components of slice {part!r}' if part else 'components': r for part, r in self._ranks.items()}
        for what, size in sizes.items():
            if size % num_groups:
                raise ValueError(
                    f'{size} {what} do not divide among num_groups={num_groups} mini-LoRAs: choose a number that '
                    'divides inputs, outputs and rank'
                )
        self._make()

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of A ``(n, r/n, in/n)`` and B ``(n, rows/n, r/n)``."""
        n = self.num_groups
        return {'A': (n, rank // n, self.in_features // n), 'B': (n, self.part_rows // n, rank // n)}

    def start(self, part: str) -> None:
        """Draw the A of each mini-LoRA from Kaiming's uniform distribution over its inputs, and set B to zero."""
        for a in self.tensor('A', part):
            nn.init.kaiming_uniform_(a, a=5**0.5)
        nn.init.zeros_(self.tensor('B', part))

    def product_factors(self) -> Factors:
        """Return ``{slice: (A, B)}`` with the mini-LoRAs as blocks, A ``(r, in)`` and B ``(rows, r)``."""
        return {part: (torch.block_diag(*a), torch.block_diag(*b)) for part, (a, b) in self.factors().items()}

    def products(self) -> None:
        """Return None: the mini-LoRAs of a part are multiplied as a batch, not as one product with zeros."""

    def change(self, x: Tensor) -> Tensor:
        """Return what the change adds to the output, ``(..., in_features) -> (..., out_features)``."""
        factors = self.factors()
        x = self.lora_dropout(x).to(next(iter(factors.values()))[0].dtype)
        parts = {part: mini_change(x, a, b, self._scalings[part]) for part, (a, b) in factors.items()}
        return self._stack(parts, dim=-1)

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, num_groups={self.num_groups}'


MELoRALinear.fused = MELoRALinear
