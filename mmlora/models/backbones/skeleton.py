"""Build a model without the memory of its weights, to learn its names and shapes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn as nn
from mmpretrain.registry import MODELS as PRETRAIN_MODELS
from torch.overrides import TorchFunctionMode


class Skeleton(TorchFunctionMode):
    """Context in which uninitialised tensors, and so the weights of layers, have a shape but no memory.

    ``torch.device('meta')`` does the same to every tensor, which breaks backbones that compute numbers while they are
    built, such as the stochastic depth of Swin.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Let ``torch.empty`` allocate on the meta device and leave everything else as it is."""
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build_skeleton(cfg: Mapping[str, Any]) -> nn.Module:
    """Build the backbone of a config without memory and without looking at its ``init_cfg``.

    A bare ``type`` is looked up in mmpretrain.
    """
    with Skeleton():
        return PRETRAIN_MODELS.build({**cfg, 'init_cfg': None})
