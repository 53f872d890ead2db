"""What a model is made of, so that it can be put back after an adapter has changed it, whatever the kind."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor


class Structure:
    """The modules of a model as they are now: their children, parameters, hooks and attributes.

    Frozen weights are not copied, since adapters leave them alone; those that an adapter writes over are named.

    Args:
        model: The model.
        written: Keys of its state that will be written over, of which the values are kept.
    """

    def __init__(self, model: nn.Module, written: Iterable[str] = ()) -> None:
        self._modules = [
            (module, type(module), {name: (value, _content(value)) for name, value in vars(module).items()})
            for module in model.modules()]
        self._learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        state = model.state_dict()
        self._values = [(state[name], state[name].clone()) for name in written if name in state]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the model back, in place, bit for bit; its device and whether it is in training stay."""
        for module, kind, own in self._modules:
            now = dict(vars(module))
            buffers: Mapping[str, Tensor] = dict(now['_buffers'])
            module.__class__ = kind
            vars(module).clear()
            for name, (value, content) in own.items():
                if content is not None:  # Whoever holds a handle of a hook holds this very dict.
                    value.clear()
                    value.update(content)
                vars(module)[name] = value
            module.training = now['training']
            for name in module._buffers:  # One that was moved to another device is another tensor.
                module._buffers[name] = buffers.get(name, module._buffers[name])
        for parameter, learns in self._learns:
            parameter.requires_grad_(learns)
        for tensor, value in self._values:
            tensor.copy_(value)


def _content(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | set) else None
