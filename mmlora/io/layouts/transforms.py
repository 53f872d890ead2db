"""What happens to the values of a weight between a foreign layout and that of mmpretrain, and back.

A transform takes the source tensors of one target in order and returns the target; ``back`` undoes it bit for bit.
Shapes: ``D`` width, ``H`` heads, ``Dh = D / H``, ``C`` channels before a merge of 2 x 2 patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """A change of values with its inverse.

    Attributes:
        forward: From the source tensors to the target.
        back: From the target, and the number of attention heads where it is known, to the source tensors.
    """

    forward: Callable[[Sequence[Tensor]], Tensor]
    back: Callable[[Tensor, int | None], Sequence[Tensor]]


def _one(forward: Callable[[Tensor], Tensor], back: Callable[[Tensor, int | None], Tensor]) -> Transform:
    return Transform(lambda parts: forward(parts[0]), lambda tensor, heads: [back(tensor, heads)])


def _stacked(each: Transform, count: int = 3) -> Transform:
    """Stack layers, such as q, k and v, along their rows, each changed by ``each`` first."""
    return Transform(
        lambda parts: torch.cat([each.forward([part]) for part in parts]),
        lambda tensor, heads: [each.back(part, heads)[0] for part in _split(tensor, count)],
    )


def _split(tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    if len(tensor) % count:
        raise ValueError(f'a weight of {tuple(tensor.shape)} cannot be split into {count} layers such as q, k and v')
    return tensor.chunk(count)


def _head_shape(size: int, heads: int | None) -> tuple[int, int]:
    if not heads or heads < 1:
        raise ValueError('this layout splits the width into attention heads, whose number is not in the weights: give '
                         'num_heads (the tool: --num-heads or --arch)')
    if size % heads:
        raise ValueError(f'a width of {size} does not divide into {heads} attention heads')
    return heads, size // heads


def _unfold_order(last: Tensor) -> Tensor:
    """Reorder the last axis from the concatenation of four patches to the order of ``nn.Unfold``.

    ``(..., 4 C)``, patches (0,0), (1,0), (0,1), (1,1) with C channels each, becomes channels with four patches each,
    row by row.
    """
    patches = last.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]  # (..., 4, C)
    return patches.transpose(-1, -2).flatten(-2)


def _concatenated_order(last: Tensor) -> Tensor:
    """Undo :func:`_unfold_order`."""
    return last.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)


SAME = _one(lambda x: x, lambda x, heads: x)
STACK = _stacked(SAME)
STACK_PAIR = _stacked(SAME, 2)
TRANSPOSE = _one(lambda x: x.T, lambda x, heads: x.T)
CONV = _one(lambda x: x.permute(3, 2, 0, 1), lambda x, heads: x.permute(2, 3, 1, 0))  # HWIO to OIHW
ROW = _one(lambda x: x[None], lambda x, heads: x[0])  # (N, D) to (1, N, D)
TOKEN = _one(lambda x: x[None, None], lambda x, heads: x[0, 0])  # (D,) to (1, 1, D)
HEADS_IN = _stacked(  # kernels (D, H, Dh)
    _one(lambda x: x.flatten(1).T, lambda x, heads: x.T.unflatten(1, _head_shape(x.shape[0], heads)))
)
HEADS_BIAS = _stacked(  # (H, Dh)
    _one(lambda x: x.flatten(), lambda x, heads: x.unflatten(0, _head_shape(x.shape[0], heads)))
)
HEADS_OUT = _one(  # kernel (H, Dh, D)
    lambda x: x.flatten(0, 1).T, lambda x, heads: x.T.unflatten(0, _head_shape(x.shape[1], heads))
)
UNFOLD = _one(_unfold_order, lambda x, heads: _concatenated_order(x))
