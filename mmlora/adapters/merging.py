"""Merging the adapters of a whole model."""

import torch
import torch.nn as nn
from torch import Tensor

from .freeze import adapter_parameter_names
from .injector import adapted_layers


def merge_adapters(model: nn.Module) -> int:
    """Merge every adapted layer and return how many there are. Costs one copy of each adapted weight."""
    layers = adapted_layers(model)
    for layer in layers.values():
        layer.merge()
    return len(layers)


def unmerge_adapters(model: nn.Module) -> int:
    """Restore every adapted layer bit for bit and return how many there are."""
    layers = adapted_layers(model)
    for layer in layers.values():
        layer.unmerge()
    return len(layers)


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the plain model that computes the same: no adapter tensors, ``W + delta`` in their place.

    The model itself is left as it is. The result loads strictly into the backbone without adapters.
    """
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    for name in adapter_parameter_names(model):
        state.pop(name)
    for name, layer in adapted_layers(model).items():
        key = f'{name}.weight' if name else 'weight'
        delta = layer.delta()
        wide = torch.promote_types(delta.dtype, state[key].dtype)
        state[key] = (state[key].to(wide) + delta).to(state[key].dtype)
    return state
