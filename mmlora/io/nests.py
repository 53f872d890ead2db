"""Where training code keeps the weights within a checkpoint."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    checkpoint = _innermost(checkpoint)
    state = {str(k): _as_tensor(v) for k, v in checkpoint.items() if isinstance(v, (Tensor, np.ndarray))}
    if not state:
        nests = [str(key) for key, value in checkpoint.items() if holds_tensors(value)]
        keys = sorted(map(str, checkpoint))[:10]
        hint = f'; there are some under {nests}: save one of these by itself' if nests else ''
        raise ValueError(f'{where} holds no tensors at its top, its keys are {keys}{hint}')
    return {own: state[key] for own, key in _without_wrapper(state).items()}


def names_of(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return the names that :func:`unwrap` would give, without looking at any tensor."""
    inner = _innermost(checkpoint).items()
    return list(_without_wrapper(str(key) for key, value in inner if isinstance(value, (Tensor, np.ndarray))))


def _innermost(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(4):
        inner = next((checkpoint[key] for key in NESTS if holds_tensors(checkpoint.get(key))), None)
        if inner is None:
            break
        checkpoint = inner
    return checkpoint


def _without_wrapper(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    wrapped = all(name.startswith('module.') for name in names)
    return {name.removeprefix('module.') if wrapped else name: name for name in names}


def holds_tensors(value: Any) -> bool:
    """Return whether :func:`unwrap` finds tensors in a value."""
    return isinstance(value, Mapping) and (
        any(isinstance(v, (Tensor, np.ndarray)) for v in value.values())
        or any(holds_tensors(value.get(key)) for key in NESTS)
    )


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
