"""The adapted linear: an ``nn.Linear`` whose frozen weight carries a low-rank change.

Subclasses say what the change is (:meth:`LowRankLinear.delta`) and how it is applied without forming it
(:meth:`LowRankLinear.change`). A kind that changes more than the weight, or is applied in another way, brings
``changed`` and ``forward`` of its own; merging, saving and loading are written once, in :mod:`.adapted`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .adapted import AdaptedLayer
from .low_rank_sum import Product, low_rank_sum
from .sites import computes

Factors = dict[str, tuple[Tensor, Tensor]]


def copy_factors(own: Factors, given: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Copy factors into those of a layer.

    Raises:
        ValueError: The slices or shapes differ.
    """
    if set(given) != set(own):
        raise ValueError(f'this layer has factors for {sorted(own)}, got {sorted(given)}')
    for name, pair in own.items():
        for letter, old, new in zip('AB', pair, given[name], strict=True):
            if old.shape != new.shape:
                raise ValueError(f'{letter} of slice {name!r} is {tuple(old.shape)} here, got {tuple(new.shape)}')
            old.copy_(new)


class LowRankLinear(AdaptedLayer, nn.Linear):
    """A frozen linear layer with a learned low-rank change.

    The frozen tensors keep the names ``weight`` and ``bias``, so that a plain checkpoint loads without a key mapping.
    The learned tensors are bare Parameters whose names begin with :attr:`prefix`.

    ``train()``, ``eval()`` and ``to()`` never merge. :meth:`merge` puts ``W + delta`` in the place of W and keeps W, so
    that a merged layer holds one more tensor of the size of W; :meth:`unmerge` puts W back, bit for bit. While merged,
    ``state_dict()`` still gives W and the factors.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        bias: Whether the frozen layer has a bias.
        device: Where the tensors lie.
        dtype: Type of the frozen tensors.
        lora_dtype: Type of the learned tensors. By default float32 over a half-precision base, else that of the base.
    """

    prefix: ClassVar[str] = 'lora_'
    fused: ClassVar['type[LowRankLinear] | None'] = None
    """The class that takes the place of this one on a fused projection (q, k and v in one weight)."""

    additive: ClassVar[bool] = True
    """Whether the change is the scaled product of the factors, B A, whatever W is."""

    default_rank: ClassVar[int] = 8
    """Rank where none is given."""

    default_slices: ClassVar[str] = 'qv'
    """Adapted slices of a fused qkv where none are given."""

    separate_dropout = False
    """Whether each of the :meth:`products` draws a dropout mask of its own."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        lora_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._prepare(lora_dtype)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **kwargs: Any) -> 'LowRankLinear':
        """Adapt an existing layer. The new layer takes over its ``weight`` and ``bias`` Parameters, uncopied.

        Args:
            linear: The layer to adapt.
            **kwargs: Arguments of the class besides shapes, bias, device and dtype.

        Raises:
            TypeError: ``linear`` is not an ``nn.Linear``, computes something else, or is adapted already.
        """
        if not computes(linear, nn.Linear):
            raise TypeError(
                f'can adapt layers that compute what nn.Linear computes only, got a {type(linear).__name__}'
            )
        weight = linear.weight
        module = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device='meta',
            dtype=weight.dtype,
            **kwargs,
        )
        return module._take_over(linear)

    def delta(self) -> Tensor:
        """Return the dense change of the weight, ``(out_features, in_features)``, for merging and tests."""
        raise NotImplementedError

    def change(self, x: Tensor) -> Tensor:
        """Return what the change adds to the output, ``(..., in_features) -> (..., out_features)``."""
        raise NotImplementedError

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the output ``y`` of the frozen layer with the change added, ``(..., out_features)``."""
        return y + self.change(x).to(y.dtype)

    def products(self) -> list[Product] | None:
        """Return the change as products that are added to columns of the output; None where it is applied otherwise.

        A kind that returns them has a ``lora_dropout`` of the input of A.
        """
        return None

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each factor pair; the key is the name of the slice, or '' where there is one for the whole weight."""
        raise NotImplementedError

    @property
    def scalings(self) -> dict[str, float]:
        """Scaling of each factor pair, by the keys of :attr:`ranks`."""
        raise NotImplementedError

    def factors(self) -> Factors:
        """Return ``{slice: (A, B)}``, A ``(r, in)`` and B ``(rows of the slice, r)``. Plain exchangeable tensors."""
        raise NotImplementedError

    @torch.no_grad()
    def set_factors(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Copy factors of the same slices, shapes and ranks into this layer.

        Raises:
            ValueError: The slices or shapes differ, or the layer is merged.
        """
        self._refuse_if_merged('set_factors')
        copy_factors(self.factors(), factors)

    def changed(self) -> tuple[Tensor, Tensor | None]:
        """Return ``W + delta`` and the bias."""
        weight, delta = self.frozen_weight, self.delta()
        return weight.to(torch.promote_types(delta.dtype, weight.dtype)) + delta, self.frozen_bias

    def to_plain(self) -> nn.Linear:
        """Return a plain layer that computes the same, in the type of the frozen weight."""
        return self._filled(nn.Linear(self.in_features, self.out_features, device='meta'))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the frozen layer and the change, ``(..., in_features) -> (..., out_features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients, which the factors would never get.
        """
        if self._pristine is not None:
            self._refuse_if_trained()
            return F.linear(x, self.weight, self.bias)
        products = self.products()
        # An input with gaps is multiplied in another way than by the plain layer, which a fresh change has to equal.
        if products is not None and x.is_contiguous():
            y = low_rank_sum(x, self.weight, self.bias, products, self.lora_dropout, self.separate_dropout)
            if y is not None:
                return y
        return self.added(F.linear(x, self.weight, self.bias), x)
