"""PiSSA of one linear layer: LoRA that starts from the principal components of the frozen weight.

Meng et al., "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", NeurIPS 2024,
arXiv 2404.02948, eq. 2-4: with ``W = U S V^T``, ``A = S_r^(1/2) V_r^T`` and ``B = U_r S_r^(1/2)`` learn, beside the
residual ``W - B A``, which is frozen. A scaling s other than 1 divides S_r, so that ``s B A`` is what W holds.

Deviation from the paper, in form alone: W is not changed. The start ``A_0, B_0`` is kept beside it, and::

    y = W x + s (B A - B_0 A_0) x = W x + s ((B - B_0) A + B_0 (A - A_0)) x

The right form has no difference of large terms: a fresh layer is the frozen one bit for bit in every type, and the
frozen weight stays that of the checkpoint. The change is that of a LoRA of rank 2 r, which the paper converts to.

The start follows from the weight that is loaded, and from the one that is drawn where none is loaded: see
:meth:`PiSSALinear.follow_weight`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .factored import FactoredLinear
from .low_rank import Factors


def principal_factors(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """Return the A ``(rank, in)`` and B ``(out, rank)`` whose scaled product is the best approximation of a weight.

    Computed on the CPU, in float32 at least, so that all processes of a run get the same. Signs are chosen so that the
    largest entry of each column of B is positive.

    Args:
        weight: ``(out, in)``.
        rank: Number of components, at most ``min(out, in)``.
        scaling: Factor of the product, above 0.

    Raises:
        ValueError: The weight is not finite.
    """
    wide = weight.detach().cpu().to(torch.promote_types(weight.dtype, torch.float32))
    if not torch.isfinite(wide).all():
        raise ValueError('the frozen weight is not finite: it has no principal components to start PiSSA from')
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    u, root, vh = u[:, :rank], (s[:rank] / scaling).sqrt(), vh[:rank]
    sign = torch.where(u.gather(0, u.abs().argmax(0, keepdim=True))[0] < 0, -1.0, 1.0).to(wide.dtype)
    return (root * sign)[:, None] * vh, u * (root * sign)


class PiSSALinear(FactoredLinear):
    """A frozen linear layer with ``lora_A`` ``(r, in)`` and ``lora_B`` ``(out, r)``, the principal components of it.

    The buffers ``lora_start_A`` and ``lora_start_B`` keep where they started; checkpoints hold them too. Fresh factors
    leave the function of the layer unchanged, bit for bit.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: One rank for every adapted slice, or ``{slice: rank}``, where rank 0 leaves a slice alone.
        alpha: Numerator of the scaling; the paper has ``alpha`` equal to the rank.
        scaling: ``'alpha/r'``, ``'alpha/sqrt(r)'``, ``'constant'`` (alpha itself) or a number; above 0.
        dropout: Probability of dropping an input of the change in training, in [0, 1).
        slices: The slices of a fused projection that are adapted, each from its own principal components; None adapts
            the projection as one weight.
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
        smallest = min(self._scalings.values())
        if smallest <= 0:
            raise ValueError(f'PiSSA divides singular values by its scaling, which must be above 0, got {smallest}')
        self._followed: tuple[float, float] | None = None
        self._used = False
        for part, r in self._ranks.items():
            for what, shape in self.shapes(r).items():
                empty = torch.zeros(*shape, device=self.weight.device, dtype=self.lora_dtype)
                self.register_buffer(self._name(f'start_{what}', part), empty)
        self._make()

    def start(self, part: str) -> None:
        """Take the principal components of the rows of a part of the frozen weight."""
        weight = self.frozen_weight
        self._followed = _digest(weight)
        values = (self.tensor('A', part), self.tensor('B', part))
        if not weight.is_meta:
            values = principal_factors(weight[self.rows(part)], self._ranks[part], self._scalings[part])
        for what, value in zip('AB', values, strict=True):
            learned = self.tensor(what, part)
            learned.copy_(value)
            setattr(self, self._name(f'start_{what}', part), learned.detach().clone())

    def starts(self) -> Factors:
        """Return ``{slice: (A_0, B_0)}``."""
        return {part: tuple(getattr(self, self._name(f'start_{what}', part)) for what in 'AB') for part in self._ranks}

    def follow_weight(self) -> None:
        """Start from the present frozen weight, where nothing was learned yet and another weight was there before.

        It happens by itself: after loading a weight without factors, and before the first forward pass, since
        ``init_weights`` of a backbone may draw a weight anew.
        """
        if self.weight.is_meta:
            return
        own, starts = self.factors(), self.starts()
        fresh = all(torch.equal(*pair) for part in own for pair in zip(own[part], starts[part], strict=True))
        if fresh and not self.merged and _digest(self.weight) != self._followed:
            self.reset_adapter()

    def product_factors(self) -> Factors:
        """Return ``{slice: (A, B)}``, A ``(2 r, in)`` and B ``(rows, 2 r)``, whose scaled product is the change.

        They are those of the LoRA to which a trained PiSSA converts.
        """
        starts, pairs = self.starts(), {}
        for part, (a, b) in self.factors().items():
            a_0, b_0 = starts[part]
            pairs[part] = (torch.cat([a, a - a_0]), torch.cat([b - b_0, b_0], dim=1))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the frozen layer and the change, ``(..., in_features) -> (..., out_features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients, which the factors would never get.
        """
        if not (self._used or torch.compiler.is_compiling()):
            self.follow_weight()
            self._used = True
        return super().forward(x)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if not self._used:
            self.follow_weight()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if prefix + 'weight' in state_dict and not any(prefix + name in state_dict for name in self.adapter_tensors()):
            self.follow_weight()


def _digest(weight: Tensor) -> tuple[float, float] | None:
    """Return two sums that another weight does not have; None without values."""
    if weight.is_meta:
        return None
    wide = weight.detach().double()
    return float(wide.sum()), float(wide.square().sum())


PiSSALinear.fused = PiSSALinear
