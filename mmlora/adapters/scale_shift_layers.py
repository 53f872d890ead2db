"""Scale and shift of further layers: linear ones, batch normalisation, and layer normalisation over channels of images.

See :mod:`.scale_shift` for the source.
"""

from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .adapted import AdaptedLayer
from .scale_shift import ScaleShift, ScaleShiftLayerNorm
from .sites import class_path

CHANNELS_FIRST = 'mmpretrain.models.utils.norm.LayerNorm2d'
"""A layer normalisation over the channels of ``(B, C, H, W)`` or, when its caller says so, of ``(B, H, W, C)``."""


class ScaleShiftLinear(ScaleShift, nn.Linear):
    """A frozen ``nn.Linear`` whose output is scaled and shifted.

    g and h are applied to the output and not to the weight: the gradient of g then needs no product of the size of the
    gradient of the weight.

    Args:
        *args: Of ``nn.Linear``.
        **kwargs: Of ``nn.Linear``, ``init``, a name in :data:`mmlora.adapters.scale_shift.INITS`, and ``lora_dtype``,
            the type of the learned tensors.

    Raises:
        ValueError: The initialisation is unknown.
    """

    plain = nn.Linear

    @classmethod
    def arguments(cls, layer: nn.Linear) -> dict[str, Any]:
        """Return the arguments of ``nn.Linear``."""
        return dict(in_features=layer.in_features, out_features=layer.out_features, bias=layer.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the frozen layer, scale and shift, ``(..., in_features) -> (..., out_features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients.
        """
        y = F.linear(x, self.weight, self.bias)
        if self.merged:
            self._refuse_if_trained()
            return y
        return (y * self.ssf_scale + self.ssf_shift).to(y.dtype)


class ScaleShiftBatchNorm2d(ScaleShift, nn.BatchNorm2d):
    """A frozen ``nn.BatchNorm2d`` whose output is scaled and shifted by channel.

    It normalises with its running statistics in training too: they belong to the frozen function.

    Args:
        *args: Of ``nn.BatchNorm2d``.
        **kwargs: Of ``nn.BatchNorm2d``, ``init`` and ``lora_dtype`` as of :class:`ScaleShiftLinear`.

    Raises:
        ValueError: The layer keeps no running statistics, has no weight, or the initialisation is unknown.
    """

    plain = nn.BatchNorm2d

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.running_mean is None:
            raise ValueError('a BatchNorm2d without running statistics is no frozen function of its input')

    @classmethod
    def arguments(cls, layer: nn.BatchNorm2d) -> dict[str, Any]:
        """Return the arguments of ``nn.BatchNorm2d``."""
        names = ('num_features', 'eps', 'momentum', 'affine', 'track_running_stats')
        return {name: getattr(layer, name) for name in names}

    def _take_over(self, layer: nn.Module) -> AdaptedLayer:
        self._buffers.update(layer._buffers)
        return super()._take_over(layer)

    def _filled(self, plain: nn.Module) -> nn.Module:
        plain = super()._filled(plain)
        plain._buffers.update({name: self._buffers[name].clone() for name in plain._buffers})
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, scale and shift, ``(B, C, H, W) -> (B, C, H, W)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients.
        """
        return F.batch_norm(x, self.running_mean, self.running_var, *self._present(), training=False, eps=self.eps)


class ScaleShiftLayerNorm2d(ScaleShiftLayerNorm):
    """A frozen layer normalisation over the channels of images whose output is scaled and shifted.

    Takes the place of mmpretrain's ``LayerNorm2d``; the arguments are those of :class:`ScaleShiftLayerNorm`.
    """

    original: type[nn.Module] = nn.LayerNorm

    @classmethod
    def takes(cls, layer: nn.Module) -> bool:
        """Return whether a layer is mmpretrain's ``LayerNorm2d``."""
        return class_path(type(layer)) == CHANNELS_FIRST

    def _take_over(self, layer: nn.Module) -> AdaptedLayer:
        self.original = type(layer)
        return super()._take_over(layer)

    def to_plain(self) -> nn.Module:
        """Return a layer of the class that was adapted, in the type of the frozen weight."""
        arguments = self.arguments(self)
        channels = arguments.pop('normalized_shape')[0]
        return self._filled(self.original(channels, **arguments, device='meta'))

    def forward(self, x: Tensor, data_format: str = 'channel_first') -> Tensor:
        """Normalise, scale and shift.

        Args:
            x: ``(B, C, H, W)``, or ``(B, H, W, C)`` for ``'channel_last'``.
            data_format: ``'channel_first'`` or ``'channel_last'``.

        Raises:
            ValueError: The format is neither.
            RuntimeError: The layer is merged and in training with gradients.
        """
        if data_format not in ('channel_first', 'channel_last'):
            raise ValueError(f"data_format must be 'channel_first' or 'channel_last', got {data_format!r}")
        if data_format == 'channel_last':
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)


def restore(layer: ScaleShift, original: nn.Module) -> nn.Module:
    """Give the layer that was adapted what the adapted one holds frozen, and return it.

    Args:
        layer: The adapted layer; it is unmerged.
        original: The layer in whose place it is, which may have been left behind by a move to another device.
    """
    layer.unmerge()
    original._parameters.update(weight=layer.weight, bias=layer.bias)
    kept = {name: tensor for name, tensor in layer._buffers.items() if name in original._buffers}
    original._buffers.update(kept)
    return original.train(layer.training)


FURTHER: tuple[type[ScaleShift], ...] = (ScaleShiftLinear, ScaleShiftBatchNorm2d, ScaleShiftLayerNorm2d)
"""The layers of this file that take a scale and shift."""
