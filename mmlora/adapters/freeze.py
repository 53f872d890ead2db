"""Freezing by exact sets of names."""

from collections.abc import Iterable

import torch.nn as nn
from torch.nn.modules.batchnorm import _NormBase

from .adapted import adapter_modules
from .added import added_modules


def adapter_parameter_names(model: nn.Module) -> set[str]:
    """Return the names of all parameters that adapters have added to a model."""
    return {
        f'{name}.{own}' if name else own
        for name, layer in {**adapter_modules(model), **added_modules(model)}.items()
        for own in layer.adapter_parameters()
    }


def adapter_tensor_names(model: nn.Module) -> set[str]:
    """Return the keys that adapters have added to the state: parameters, and buffers that they start from."""
    return adapter_parameter_names(model) | {
        f'{name}.{own}' if name else own
        for name, layer in adapter_modules(model).items()
        for own in layer.adapter_tensors()
    }


def freeze(model: nn.Module, trainable: Iterable[str] = ()) -> None:
    """Let the named parameters learn, and no others.

    Normalisation layers with running statistics and no learning affine are kept in evaluation mode whenever the model
    is called, since their statistics belong to the frozen function. :func:`release_norms` ends that.

    Args:
        model: Changed in place.
        trainable: Exact names of the parameters that learn.

    Raises:
        ValueError: A name is no parameter of the model.
    """
    trainable = set(trainable)
    parameters = dict(model.named_parameters())
    unknown = sorted(trainable - set(parameters))
    if unknown:
        raise ValueError(f'{len(unknown)} names are no parameters of the model, the first: {unknown[:5]}')
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trainable)
    if any(_is_frozen_norm(module) for module in model.modules()) and not hasattr(model, '_keeps_norms'):
        model._keeps_norms = model.register_forward_pre_hook(_keep_norms_in_evaluation)


def release_norms(model: nn.Module) -> None:
    """Let the mode of a model be that of all its normalisations again."""
    handle = vars(model).pop('_keeps_norms', None)
    if handle is None:
        return
    handle.remove()
    for module in model.modules():
        if _is_frozen_norm(module):
            module.training = model.training


def _is_frozen_norm(module: nn.Module) -> bool:
    return (
        isinstance(module, _NormBase)
        and module.track_running_stats
        and not any(tensor is not None and tensor.requires_grad for tensor in (module.weight, module.bias))
    )


def _keep_norms_in_evaluation(model: nn.Module, args: tuple) -> None:
    # Looked up in each call: layers may learn again, or be converted to another class, after freezing.
    for module in model.modules():
        if _is_frozen_norm(module):
            module.training = False
