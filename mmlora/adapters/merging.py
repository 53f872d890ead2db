"""Merging the adapters of a whole model."""

import torch
import torch.nn as nn
from torch import Tensor

from .adapted import adapter_modules, replace_module
from .freeze import adapter_parameter_names


def merge_adapters(model: nn.Module) -> int:
    """Merge every adapted layer and return how many there are. Costs one copy of each adapted weight."""
    layers = adapter_modules(model)
    for layer in layers.values():
        layer.merge()
    return len(layers)


def unmerge_adapters(model: nn.Module) -> int:
    """Restore every adapted layer bit for bit and return how many there are."""
    layers = adapter_modules(model)
    for layer in layers.values():
        layer.unmerge()
    return len(layers)


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the plain model that computes the same: no adapter tensors, ``W + delta`` in their place.

    The model itself is left as it is. The result loads strictly into the backbone without adapters. A layer without a
    bias whose kind of adapter shifts the bias needs one there.
    """
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    for name in adapter_parameter_names(model):
        state.pop(name)
    for name, layer in adapter_modules(model).items():
        for own, value in layer.plain_tensors().items():
            state[f'{name}.{own}' if name else own] = value
    return state


def to_plain(model: nn.Module) -> int:
    """Put plain layers that compute the same in the place of the adapted ones, and return how many there are.

    For deployment: the frozen and the learned tensors are gone afterwards.

    Args:
        model: Changed in place. Nothing is changed where a change is not finite.

    Raises:
        ValueError: The model itself is one adapted layer, or a change is not finite.
    """
    layers = adapter_modules(model)
    if '' in layers:
        raise ValueError('the model itself is an adapted layer: its to_plain() returns the plain one')
    plain = {name: layer.to_plain() for name, layer in layers.items()}
    for name, layer in layers.items():
        replace_module(model, layer, plain[name])
    return len(layers)
