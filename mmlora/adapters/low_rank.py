"""The adapted linear: an ``nn.Linear`` whose frozen weight carries a low-rank change.

Subclasses say what the change is (:meth:`LowRankLinear.delta`) and how it is applied without forming it
(:meth:`LowRankLinear.change`); merging, saving and loading are written once, here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

Factors = dict[str, tuple[Tensor, Tensor]]

SAME_FORWARD = {'mmcv.cnn.bricks.wrappers.Linear'}
"""Subclasses of ``nn.Linear`` with a ``forward`` of their own that computes the same."""


class LowRankLinear(nn.Linear):
    """A frozen linear layer with a learned low-rank change.

    The frozen tensors keep the names ``weight`` and ``bias``, so that a plain checkpoint loads without a key mapping.
    The learned tensors are bare Parameters whose names begin with :attr:`prefix`.

    ``train()``, ``eval()`` and ``to()`` never merge. :meth:`merge` writes ``W + delta`` into ``weight`` and keeps a
    copy of W, so that a merged layer holds one more tensor of the size of W; :meth:`unmerge` restores W bit for bit.
    While merged, ``state_dict()`` still gives W and the factors.

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
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        if lora_dtype is None:
            half = self.weight.dtype in (torch.float16, torch.bfloat16)
            lora_dtype = torch.float32 if half else self.weight.dtype
        self.lora_dtype = lora_dtype
        self.register_buffer('_pristine', None, persistent=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **kwargs: Any) -> 'LowRankLinear':
        """Adapt an existing layer. The new layer takes over its ``weight`` and ``bias`` Parameters, uncopied.

        Args:
            linear: The layer to adapt.
            **kwargs: Arguments of the class besides shapes, bias, device and dtype.

        Raises:
            TypeError: ``linear`` is not an ``nn.Linear``, computes something else, or is adapted already.
        """
        kind = type(linear)
        same = getattr(kind, 'forward', None) is nn.Linear.forward
        if not same and f'{kind.__module__}.{kind.__qualname__}' not in SAME_FORWARD:
            raise TypeError(f'can adapt layers that compute what nn.Linear computes only, got a {kind.__name__}')
        weight = linear.weight
        module = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device='meta',
            dtype=weight.dtype,
            **kwargs,
        )
        module.weight, module.bias = weight, linear.bias
        for name, parameter in module.adapter_parameters().items():
            setattr(module, name, nn.Parameter(torch.empty_like(parameter, device=weight.device)))
        module.weight.requires_grad_(False)
        if module.bias is not None:
            module.bias.requires_grad_(False)
        module.reset_adapter()
        return module.train(linear.training)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return the learned tensors by their names within this layer."""
        return {n: p for n, p in self.named_parameters(recurse=False) if n.startswith(self.prefix)}

    def reset_adapter(self) -> None:
        """Draw the learned tensors anew, such that the change is zero."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """Return the dense change of the weight, ``(out_features, in_features)``, for merging and tests."""
        raise NotImplementedError

    def change(self, x: Tensor) -> Tensor:
        """Return what the change adds to the output, ``(..., in_features) -> (..., out_features)``."""
        raise NotImplementedError

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
        own = self.factors()
        if set(factors) != set(own):
            raise ValueError(f'this layer has factors for {sorted(own)}, got {sorted(factors)}')
        self._refuse_if_merged('set_factors')
        for name, pair in own.items():
            for letter, old, new in zip('AB', pair, factors[name], strict=True):
                if old.shape != new.shape:
                    raise ValueError(f'{letter} of slice {name!r} is {tuple(old.shape)} here, got {tuple(new.shape)}')
                old.copy_(new)

    @property
    def merged(self) -> bool:
        """Whether ``weight`` holds ``W + delta`` at present."""
        return self._pristine is not None

    @property
    def frozen_weight(self) -> Tensor:
        """W, merged or not."""
        return self.weight if self._pristine is None else self._pristine

    @torch.no_grad()
    def merge(self) -> 'LowRankLinear':
        """Write ``W + delta`` into ``weight``; does nothing when merged already.

        Raises:
            ValueError: The change is not finite.
        """
        if self.merged:
            return self
        delta = self.delta()
        if not torch.isfinite(delta).all():
            raise ValueError('the low-rank change holds values that are not finite; merging it would spoil the weight')
        self._pristine = self.weight.detach().clone()
        self.weight.copy_(self._pristine.to(torch.promote_types(delta.dtype, self.weight.dtype)) + delta)
        return self

    @torch.no_grad()
    def unmerge(self) -> 'LowRankLinear':
        """Restore W bit for bit; does nothing when not merged."""
        if self.merged:
            self.weight.copy_(self._pristine)
            self._pristine = None
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Apply the frozen layer and the change, ``(..., in_features) -> (..., out_features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients, which the factors would never get.
        """
        y = F.linear(x, self.weight, self.bias)
        if self._pristine is None:
            return y + self.change(x).to(y.dtype)
        if self.training and torch.is_grad_enabled():
            raise RuntimeError('a merged layer cannot be trained, its factors get no gradient: call unmerge() first')
        return y

    def _refuse_if_merged(self, what: str) -> None:
        if self.merged:
            raise ValueError(f'{what} on a merged layer would leave a stale weight: call unmerge() first')

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.merged:
            destination[prefix + 'weight'] = self._pristine

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_if_merged('load_state_dict')
        super()._load_from_state_dict(*args, **kwargs)
