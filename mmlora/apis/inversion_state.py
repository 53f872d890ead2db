"""An unfinished inversion as a file, so that a run that was killed goes on where it was."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..io.atomic import write_bytes
from ..plain_json import parse_json


@dataclass
class InversionState:
    """Where an inversion is.

    Attributes:
        step: Number of finished iterations.
        x: The images, ``(B, C, H, W)`` in normalised space.
        exp_avg: First moment of Adam, as ``x``.
        exp_avg_sq: Second moment of Adam, as ``x``.
        best: The images with the smallest loss yet.
        best_loss: That loss; infinite before any.
        best_step: The iteration that saw it, from 0; -1 before any.
    """

    step: int
    x: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    best: Tensor
    best_loss: float = float('inf')
    best_step: int = -1

    @classmethod
    def new(cls, start: Tensor) -> 'InversionState':
        """Return the state before the first iteration."""
        return cls(0, start, torch.zeros_like(start), torch.zeros_like(start), start)


_TENSORS = ('x', 'exp_avg', 'exp_avg_sq', 'best')


def save_state(path: str | os.PathLike, state: InversionState, about: dict[str, Any]) -> None:
    """Write a state in one step.

    Args:
        path: The file.
        state: The state.
        about: What the inversion depends on: a state goes on only where all of it is equal. Plain data.
    """
    tensors = {name: getattr(state, name).detach().cpu().contiguous().clone() for name in _TENSORS}
    numbers = dict(step=state.step, best_loss=state.best_loss.hex(), best_step=state.best_step, about=about)
    write_bytes(path, save(tensors, metadata={'state': json.dumps(numbers, sort_keys=True)}))


def load_state(path: str | os.PathLike, about: dict[str, Any]) -> InversionState | None:
    """Read a state; None where there is no file.

    Args:
        path: The file.
        about: As given to :func:`save_state`.

    Raises:
        ValueError: The file is damaged or belongs to another inversion.
    """
    if not Path(path).is_file():
        return None
    try:
        with safe_open(path, 'pt') as file:
            numbers = parse_json(file.metadata()['state'])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{os.fspath(path)} is no unfinished inversion ({error}): delete it to start anew') from error
    own = json.loads(json.dumps(about))
    other = sorted(name for name in {*own, *numbers['about']} if own.get(name) != numbers['about'].get(name))
    if other:
        raise ValueError(
            f'{os.fspath(path)} is an unfinished inversion with other {", ".join(other)}: give the same as then, or '
            'delete the file to start anew'
        )
    best_loss = float.fromhex(numbers['best_loss'])
    return InversionState(numbers['step'], **tensors, best_loss=best_loss, best_step=numbers['best_step'])
