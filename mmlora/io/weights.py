"""From any checkpoint to one flat state dict of tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoint import load_checkpoint

NESTS = ('state_dict', 'model', 'model_state_dict', 'teacher', 'module', 'params')
"""Keys under which training code keeps the weights; the first that holds tensors is taken."""


def unwrap(checkpoint: Mapping[str, Any], where: str = 'checkpoint') -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, without nesting and without the ``module.`` of a parallel wrapper.

    Args:
        checkpoint: A state dict, or a mapping that holds one under one of :data:`NESTS`, at any depth.
        where: Quoted in the error.

    Raises:
        ValueError: There are no tensors in it.
    """
    for _ in range(4):
        inner = next((checkpoint[key] for key in NESTS if _holds_tensors(checkpoint.get(key))), None)
        if inner is None:
            break
        checkpoint = inner
    state = {str(k): _as_tensor(v) for k, v in checkpoint.items() if isinstance(v, (Tensor, np.ndarray))}
    if not state:
        nests = [str(key) for key, value in checkpoint.items() if _holds_tensors(value)]
        keys = sorted(map(str, checkpoint))[:10]
        hint = f'; there are some under {nests}: save one of these by itself' if nests else ''
        raise ValueError(f'{where} holds no tensors at its top, its keys are {keys}{hint}')
    if all(key.startswith('module.') for key in state):
        state = {key.removeprefix('module.'): value for key, value in state.items()}
    return state


def load_state_dict(path: str) -> dict[str, Tensor]:
    """Read a checkpoint of any supported kind and return its tensors, on the CPU.

    Args:
        path: A file (``.pth``, ``.safetensors``, ``.npz``) or anything else that the checkpoint loader takes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, is no checkpoint, or holds no tensors.
    """
    return unwrap(load_checkpoint(path, map_location='cpu'), str(path))


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        any(isinstance(v, (Tensor, np.ndarray)) for v in value.values())
        or any(_holds_tensors(value.get(key)) for key in NESTS)
    )


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
