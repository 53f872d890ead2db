"""Merging the adapters of a whole model."""

import torch
import torch.nn as nn
from torch import Tensor

from .adapted import adapter_modules, replace_module
from .freeze import adapter_tensor_names
from .head_bank import HeadBank
from .tuning import tunings


def check_mergeable(model: nn.Module) -> None:
    """Check that a plain model can compute the same as an adapted one.

    Raises:
        ValueError: A backbone is adapted by what no weight can hold; the kind and the reason are named.
    """
    for name, tuning in tunings(model).items():
        if tuning.unmergeable:
            where = f' of {name}' if name else ''
            raise ValueError(
                f'{tuning.name}{where} cannot be merged: {tuning.unmergeable}. Test and deploy the adapted model itself'
            )


def merge_adapters(model: nn.Module) -> int:
    """Merge every adapted layer and return how many there are. Costs one copy of each adapted weight.

    Of several adapters by name that is merged which all samples use. Nothing is merged where one layer cannot be.

    Raises:
        ValueError: The model is adapted by what cannot be merged, or a change is not finite; the layer is named.
    """
    check_mergeable(model)
    layers = adapter_modules(model)
    done = []
    for name, layer in layers.items():
        if layer.merged:
            continue
        try:
            layer.merge()
        except (ValueError, RuntimeError) as error:
            for other in done:
                other.unmerge()
            raise type(error)(f'{name or "the layer"}: {error}') from error
        done.append(layer)
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

    Raises:
        ValueError: The model is adapted by what cannot be merged.
    """
    check_mergeable(model)
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    for name in adapter_tensor_names(model):
        state.pop(name)
    for name, layer in adapter_modules(model).items():
        for own, value in layer.plain_tensors().items():
            state[f'{name}.{own}' if name else own] = value
    for name, heads in _head_banks(model).items():
        for own in heads.own.state_dict():
            state.pop(f'{name}.own.{own}')
        state |= {f'{name}.{own}': value.clone() for own, value in heads.to_plain().state_dict().items()}
    return state


def to_plain(model: nn.Module) -> int:
    """Put plain layers that compute the same in the place of the adapted ones, and return how many there are.

    For deployment: the frozen and the learned tensors are gone afterwards.

    Args:
        model: Changed in place. Nothing is changed where a change is not finite.

    Raises:
        ValueError: The model itself is one adapted layer, a change is not finite, or the model is adapted by what
            cannot be merged.
    """
    check_mergeable(model)
    layers = adapter_modules(model)
    if '' in layers:
        raise ValueError('the model itself is an adapted layer: its to_plain() returns the plain one')
    heads = _head_banks(model)
    plain = {name: layer.to_plain() for name, layer in {**layers, **heads}.items()}
    for name, layer in {**layers, **heads}.items():
        replace_module(model, layer, plain[name])
    for name in tunings(model):
        del model.get_submodule(name).tuning
    for module in model.modules():
        for known in ('named_adapters', 'loaded_adapters'):
            vars(module).pop(known, None)
    return len(layers)


def _head_banks(model: nn.Module) -> dict[str, HeadBank]:
    return {name: module for name, module in model.named_modules() if isinstance(module, HeadBank)}
