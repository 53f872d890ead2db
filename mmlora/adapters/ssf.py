"""SSF: the output of every operation of a frozen backbone is scaled and shifted.

Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022, arXiv
2210.08823, eq. 2: ``y = g x + h`` after the patch embedding, each normalisation (the final one included) and each
linear layer, with g from N(1, 0.02) and h from N(0, 0.02). All of it merges into the layers before (eq. 4).

In networks with batch normalisation, a convolution without a bias is left out where a batch normalisation follows it:
with frozen statistics both are one affine map of a channel, so that scale and shift behind the normalisation reach the
same functions.
"""

import torch.nn as nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from .adapted import replace_module
from .scale_shift import SCALE_SHIFT, ScaleShift
from .scale_shift_layers import FURTHER, restore
from .sites import bypassed, place_of
from .tuning import Tuning

SITES: tuple[type[ScaleShift], ...] = (*SCALE_SHIFT, *FURTHER)
OPERATIONS = (nn.Linear, _ConvNd, nn.LayerNorm, nn.GroupNorm, _NormBase)
"""Layers after which SSF belongs."""


class SSF(Tuning):
    """Scale and shift the outputs of all linear, convolution and normalisation layers of a backbone."""

    prefix = 'ssf_'

    def __init__(self) -> None:
        super().__init__()
        self._originals: dict[str, nn.Module] = {}

    def _add(self, backbone: nn.Module) -> None:
        layers = {name: layer for name, layer in backbone.named_modules() if isinstance(layer, OPERATIONS)}
        adapted = {n: _adapt(backbone, n, layer) for n, layer in layers.items() if not _is_covered(backbone, n, layer)}
        if not adapted:
            raise ValueError(f'SSF finds no layer to scale in this {type(backbone).__name__}')
        self._originals = {name: layers[name] for name in adapted}
        for name, layer in adapted.items():
            replace_module(backbone, layers[name], layer)

    def _remove(self, backbone: nn.Module) -> None:
        for name, original in self._originals.items():
            layer = backbone.get_submodule(name)
            replace_module(backbone, layer, restore(layer, original))
        self._originals = {}


def _adapt(backbone: nn.Module, name: str, layer: nn.Module) -> ScaleShift:
    if bypassed(backbone, name):
        parent = type(place_of(backbone, name)[0]).__name__
        raise ValueError(f'SSF cannot scale the output of {name}: its {parent} reads the weight and never calls it')
    kind = next((kind for kind in SITES if kind.takes(layer)), None)
    if kind is None:
        raise ValueError(f'SSF cannot scale the output of {name}, a {type(layer).__name__}')
    try:
        return kind.from_layer(layer)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error


def _is_covered(backbone: nn.Module, name: str, layer: nn.Module) -> bool:
    """Return whether the batch normalisation behind a convolution brings what a scale and shift of it would."""
    if not isinstance(layer, _ConvNd) or layer.bias is not None:
        return False
    children = list(place_of(backbone, name)[0].children())
    return any(isinstance(other, _NormBase) for other in children[children.index(layer) + 1 :])
