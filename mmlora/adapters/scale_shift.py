"""Scale and shift of the output of a frozen layer: ``y = layer(x) * g + h``, one g and h for each feature.

Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022, arXiv
2210.08823, eq. 2. RLRR (arXiv 2403.19067) uses it on layer normalisation and on the patch embedding.

g and h are applied to the affine tensors of the layer, ``w g`` and ``b g + h``, which is the same and costs nothing
for each token.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .adapted import AdaptedLayer, replace_module
from .sites import computes
from .targets import select


def scaled_affine(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``w g`` and ``b g + h`` in the wider type of the arguments.

    Args:
        weight: ``(features, ...)``.
        bias: ``(features,)``, or None for zero.
        scale: g, ``(features,)``.
        shift: h, ``(features,)``.
    """
    column = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * column, shift if bias is None else bias * scale + shift


def published_init(scale: Tensor, shift: Tensor) -> None:
    """Draw g from N(1, 0.02) and h from N(0, 0.02)."""
    nn.init.normal_(scale, mean=1, std=0.02)
    nn.init.normal_(shift, std=0.02)


def identity_init(scale: Tensor, shift: Tensor) -> None:
    """Set g to one and h to zero."""
    nn.init.ones_(scale)
    nn.init.zeros_(shift)


INITS: dict[str, Callable[[Tensor, Tensor], None]] = {'published': published_init, 'identity': identity_init}


class ScaleShift(AdaptedLayer):
    """A frozen layer with ``ssf_scale`` and ``ssf_shift``, one number each for each feature.

    Goes before the layer's class among the bases; see :class:`ScaleShiftLayerNorm`.
    """

    prefix = 'ssf_'
    shifts = True
    plain: ClassVar[type[nn.Module]]
    """The layer that is adapted."""

    def __init__(
        self, *args: Any, init: str = 'published', lora_dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if init not in INITS:
            raise ValueError(f'unknown init {init!r}: choose one of {sorted(INITS)}')
        if self.weight is None:
            raise ValueError(
                f'a {self.plain.__name__} without a weight of its own takes no scale and shift: nothing could hold '
                'them once merged'
            )
        self.init = init
        self._prepare(lora_dtype)
        features = self.weight.shape[0]
        like = dict(device=self.weight.device, dtype=self.lora_dtype)
        self.ssf_scale = nn.Parameter(torch.empty(features, **like))
        self.ssf_shift = nn.Parameter(torch.empty(features, **like))
        self.reset_adapter()

    @classmethod
    def arguments(cls, layer: nn.Module) -> dict[str, Any]:
        """Return what the constructor of a plain layer takes to build one of the same shape, but for its type."""
        raise NotImplementedError

    @classmethod
    def takes(cls, layer: nn.Module) -> bool:
        """Return whether a layer computes what the plain one does, so that this class can take its place."""
        return computes(layer, cls.plain)

    @classmethod
    def from_layer(cls, layer: nn.Module, **kwargs: Any) -> 'ScaleShift':
        """Adapt an existing layer. The new one takes over its ``weight`` and ``bias`` Parameters, uncopied.

        Args:
            layer: The layer to adapt.
            **kwargs: ``init`` and ``lora_dtype``.

        Raises:
            TypeError: The layer computes something else, or is adapted already.
            ValueError: It has no weight, or the initialisation is unknown.
        """
        if not cls.takes(layer):
            raise TypeError(f'can adapt what computes a {cls.plain.__name__} only, got a {type(layer).__name__}')
        dtype = None if layer.weight is None else layer.weight.dtype
        return cls(**cls.arguments(layer), device='meta', dtype=dtype, **kwargs)._take_over(layer)

    def reset_adapter(self) -> None:
        """Draw g and h anew."""
        self._refuse_if_merged('reset_adapter')
        INITS[self.init](self.ssf_scale, self.ssf_shift)

    def changed(self) -> tuple[Tensor, Tensor]:
        """Return ``w g`` and ``b g + h``."""
        return scaled_affine(self.frozen_weight, self.frozen_bias, self.ssf_scale, self.ssf_shift)

    def to_plain(self) -> nn.Module:
        """Return a plain layer that computes the same, in the type of the frozen weight."""
        return self._filled(self.plain(**self.arguments(self), device='meta'))

    def _present(self) -> tuple[Tensor, Tensor]:
        """Return the weight and bias to compute with, in the type of the frozen weight."""
        if self._pristine is not None:
            self._refuse_if_trained()
            return self.weight, self.bias
        weight, bias = self.changed()
        return weight.to(self.weight.dtype), bias.to(self.weight.dtype)


class ScaleShiftLayerNorm(ScaleShift, nn.LayerNorm):
    """A frozen ``nn.LayerNorm`` over the last axis whose output is scaled and shifted.

    Args:
        normalized_shape: Number of features.
        init: A name in :data:`INITS`.
        **kwargs: Of ``nn.LayerNorm``, and ``lora_dtype``, the type of the learned tensors.

    Raises:
        ValueError: The layer normalises over several axes or has no weight, or the initialisation is unknown.
    """

    plain = nn.LayerNorm

    def __init__(self, normalized_shape: int | Sequence[int], *args: Any, **kwargs: Any) -> None:
        super().__init__(normalized_shape, *args, **kwargs)
        if len(self.normalized_shape) != 1:
            raise ValueError(f'scale and shift go with one axis of features, got {self.normalized_shape}')

    @classmethod
    def arguments(cls, layer: nn.LayerNorm) -> dict[str, Any]:
        """Return the arguments of ``nn.LayerNorm``."""
        return dict(
            normalized_shape=layer.normalized_shape,
            eps=layer.eps,
            elementwise_affine=layer.elementwise_affine,
            bias=layer.bias is not None,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, scale and shift, ``(..., features) -> (..., features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients.
        """
        return F.layer_norm(x, self.normalized_shape, *self._present(), self.eps)


class ScaleShiftConv2d(ScaleShift, nn.Conv2d):
    """A frozen ``nn.Conv2d`` whose output is scaled and shifted by channel.

    Args:
        *args: Of ``nn.Conv2d``.
        **kwargs: Of ``nn.Conv2d``, ``init``, a name in :data:`INITS`, and ``lora_dtype``, the type of the learned
            tensors.

    Raises:
        ValueError: The initialisation is unknown.
    """

    plain = nn.Conv2d

    @classmethod
    def arguments(cls, layer: nn.Conv2d) -> dict[str, Any]:
        """Return the arguments of ``nn.Conv2d``."""
        names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups')
        return {n: getattr(layer, n) for n in (*names, 'padding_mode')} | dict(bias=layer.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, scale and shift, ``(B, in, H, W) -> (B, out, H', W')``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients.
        """
        return self._conv_forward(x, *self._present())


SCALE_SHIFT: tuple[type[ScaleShift], ...] = (ScaleShiftLayerNorm, ScaleShiftConv2d)
"""The layers that take a scale and shift."""


def inject_scale_shift(
    model: nn.Module, targets: str | Sequence[str], init: str = 'published', lora_dtype: torch.dtype | None = None
) -> dict[str, ScaleShift]:
    """Scale and shift the output of the layers that the patterns name.

    Args:
        model: Changed in place.
        targets: Patterns as in :func:`mmlora.adapters.targets.matches`, for ``nn.LayerNorm`` and ``nn.Conv2d``.
        init: A name in :data:`INITS`.
        lora_dtype: Type of the learned tensors, as of :class:`mmlora.adapters.LowRankLinear`.

    Returns:
        The adapted layers by name, in the order of the model.

    Raises:
        ValueError: A pattern means no such layer, a layer takes none (named), or the initialisation is unknown.
    """
    kinds = {name: _kind(module) for name, module in model.named_modules()}
    chosen = select(targets, [name for name, kind in kinds.items() if kind], 'normalisation or convolution')
    adapted = {}
    for name in chosen:
        try:
            adapted[name] = kinds[name].from_layer(model.get_submodule(name), init=init, lora_dtype=lora_dtype)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
    for name, layer in adapted.items():
        replace_module(model, model.get_submodule(name), layer)
    return adapted


def _kind(module: nn.Module) -> type[ScaleShift] | None:
    return next((kind for kind in SCALE_SHIFT if kind.takes(module)), None)
