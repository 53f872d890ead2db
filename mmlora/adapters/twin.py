"""A second model on the frozen weights of an adapted one: same tensors, other adapters."""

import copy

import torch.nn as nn

from .adapted import AdaptedLayer, adapter_modules, replace_module
from .freeze import freeze
from .tuning import tunings


def frozen_twin(model: nn.Module) -> nn.Module:
    """Return the model without its adapters, on the same frozen tensors.

    Frozen Parameters are shared, uncopied, so that the twin costs the memory of what learns besides the adapters, and
    moves with the model to other devices. It is frozen and in evaluation mode, and knows nothing of the adapters of the
    model; give it others with :func:`mmlora.adapters.attach_bank`.

    Args:
        model: Adapted in its linear layers, or plain. It is not changed.

    Raises:
        ValueError: The model is merged, or adapted in another way than in linear layers.
    """
    layers = adapter_modules(model)
    other = sorted({type(layer).__name__ for layer in layers.values() if not isinstance(layer, nn.Linear)})
    other += [tuning.name for tuning in tunings(model).values()]
    if other:
        raise ValueError(f'a twin on the same frozen weights needs adapters of linear layers, not {", ".join(other)}')
    merged = [name for name, layer in layers.items() if layer.merged]
    if merged:
        raise ValueError(f'{len(merged)} layers are merged, such as {merged[0]!r}: call unmerge_adapters first')
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    twin = copy.deepcopy(model, dict(frozen))
    for layer in adapter_modules(twin).values():
        replace_module(twin, layer, _plain(layer))
    freeze(twin)
    return twin.train(False) or twin  # mmpretrain's train() returns None.


def _plain(layer: AdaptedLayer) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device='meta')
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain
