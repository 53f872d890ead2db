"""MoSLoRA of one linear layer: a learned mixer between the two factors of LoRA.

Wu et al., "Mixture-of-Subspaces in Low-Rank Adaptation", EMNLP 2024, arXiv 2406.11909: ``y = W x + s B M A x`` with a
learned mixer M ``(r, r)``, which blends each of the r subspaces of A with each of B. B starts at zero and A as in LoRA.

Deviation from public code: the slices of a fused projection have a mixer each, as separate projections would. Code that
shares one between q and v ties two layers that the paper adapts apart.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .factored import FactoredLinear
from .low_rank import Factors


def kaiming_mixer(mixer: Tensor) -> None:
    """Draw the mixer from Kaiming's uniform distribution with a = sqrt(5)."""
    nn.init.kaiming_uniform_(mixer, a=5**0.5)


def orthogonal_mixer(mixer: Tensor) -> None:
    """Draw the mixer from the orthogonal matrices."""
    # The decomposition behind it knows no half precision.
    mixer.copy_(nn.init.orthogonal_(torch.empty_like(mixer, dtype=torch.promote_types(mixer.dtype, torch.float32))))


MIXERS: dict[str, Callable[[Tensor], Any]] = {
    'orthogonal': orthogonal_mixer,
    'kaiming': kaiming_mixer,
    'identity': nn.init.eye_,
}
"""How the mixer starts. ``'identity'`` starts as LoRA does."""


class MoSLoRALinear(FactoredLinear):
    """A frozen linear layer with ``lora_A`` ``(r, in)``, ``lora_mixer`` ``(r, r)`` and ``lora_B`` ``(out, r)``.

    Fresh factors leave the function of the layer unchanged, bit for bit.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: One rank for every adapted slice, or ``{slice: rank}``, where rank 0 leaves a slice alone.
        alpha: Numerator of the scaling.
        scaling: ``'alpha/r'``, ``'alpha/sqrt(r)'``, ``'constant'`` (alpha itself) or a number.
        dropout: Probability of dropping an input of A in training, in [0, 1).
        slices: The slices of a fused projection that are adapted, each with a mixer of its own; None adapts the
            projection as one weight.
        layout: Names of all slices in the order of their rows.
        init: How the mixer starts, a name in :data:`MIXERS`.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`mmlora.adapters.LowRankLinear`.

    Raises:
        ValueError: A rank, the scaling or the dropout is out of range, the slices do not fit, or ``init`` is unknown.
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
        init: str = 'orthogonal',
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, rank, alpha, scaling, dropout, slices, layout, **kwargs)
        if init not in MIXERS:
            raise ValueError(f'unknown init {init!r} of the mixer: choose one of {sorted(MIXERS)}')
        self.init = init
        self._make()

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of A, B and the mixer ``(r, r)``."""
        return {**super().shapes(rank), 'mixer': (rank, rank)}

    def start(self, part: str) -> None:
        """Draw A and the mixer, and set B to zero."""
        super().start(part)
        MIXERS[self.init](self.tensor('mixer', part))

    def product_factors(self) -> Factors:
        """Return ``{slice: (M A, B)}``: the mixer goes where the tensor is smallest, into A."""
        return {part: (self.tensor('mixer', part) @ a, b) for part, (a, b) in self.factors().items()}


MoSLoRALinear.fused = MoSLoRALinear
