"""Dropout of the input of an adapter, whose masks are cheap on a CPU.

An adapter reads its input once, so that there the draw of a mask costs more than the product that it is for: PyTorch's
Bernoulli draws take 10 ns an element on a CPU, in one thread. Here 64 elements are decided at a time, by as many random
words as the probability has binary digits: 2 for a quarter, at most 16. The result has the distribution of
``nn.Dropout`` at a probability that is rounded to a multiple of 2**-16, and the scale fits the rounded one, so that the
mean stays exact. A mask is one bit an element. On other devices PyTorch's own kernel is used, which holds mask and
product at once.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

DIGITS = 16
LEVELS = 2**DIGITS
WORD = 64
_BITS = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1  # (byte, bit)


def dropped_level(p: float) -> int:
    """Return p in [0, 1) as a multiple of 1 / :data:`LEVELS`, rounded, but never up to 1."""
    return min(round(p * LEVELS), LEVELS - 1)


def kept_scale(p: float) -> float:
    """Return what kept elements are multiplied with, so that the mean stays."""
    return LEVELS / (LEVELS - dropped_level(p))


def draw_bits(size: int, p: float) -> Tensor:
    """Return one bit for each of ``size`` elements, 1 where it is kept, in bytes; drawn on the CPU.

    An element is kept where a random number of as many binary digits as p has is at least p: the digits are compared
    from the last one on, for the 64 elements of a word at once.

    Args:
        size: Number of elements.
        p: Probability of 0, in [0, 1), rounded to a multiple of 1 / :data:`LEVELS`.

    Returns:
        Bytes, of which the last ones may be more than are needed.
    """
    words, level = -(-size // WORD), dropped_level(p)
    if not level:
        return torch.full((words * WORD // 8,), 255, dtype=torch.uint8)
    last = (level & -level).bit_length() - 1
    drawn = torch.randint(-(2**63), 2**63 - 1, (DIGITS - last, words))
    kept = drawn[0]
    for place, digit in enumerate(drawn[1:], last + 1):
        kept = digit & kept if level >> place & 1 else digit | kept
    return kept.view(torch.uint8)


def kept_elements(bits: Tensor, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the bits of a part of the elements as 0 and 1 of a type.

    Args:
        bits: As :func:`draw_bits` gives them.
        start: Number of the first element, a multiple of 8.
        shape: Of the result.
        dtype: Of the result.
    """
    size = torch.Size(shape).numel()
    some = bits[start // 8 : (start + size + 7) // 8]
    table = _BITS.to(dtype)
    return table.index_select(0, some.int()).view(-1)[:size].view(shape)


def noise(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Return a factor for each element, drawn on the CPU: 0 with probability ``p``, else :func:`kept_scale`.

    Args:
        shape: Of the result.
        p: Probability in [0, 1), rounded to a multiple of 1 / :data:`LEVELS`, and never up to 1.
        dtype: Of the result.
    """
    return kept_elements(draw_bits(shape.numel(), p), 0, shape, dtype) * kept_scale(p)


class InputDropout(nn.Dropout):
    """An ``nn.Dropout`` with cheaper masks on a CPU; what is drawn comes from PyTorch's default generator there too."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements in training mode; an identity otherwise."""
        if not self.training or not self.p:
            return x
        if x.device.type != 'cpu' or self.inplace:
            return F.dropout(x, self.p, True, self.inplace)
        return x * noise(x.shape, self.p, x.dtype)


def draws_bits(dropout: nn.Module, x: Tensor) -> bool:
    """Say whether what a dropout leaves of an input follows from bits alone, so that it need not be called.

    Hooks of the dropout are to see what it returns, and on other devices than the CPU PyTorch's kernel draws faster.
    """
    hooks = (dropout._forward_hooks, dropout._forward_pre_hooks, dropout._backward_hooks, dropout._backward_pre_hooks)
    if any(hooks):
        return False
    if isinstance(dropout, nn.Identity) or (type(dropout) is InputDropout and not (dropout.training and dropout.p)):
        return True
    return type(dropout) is InputDropout and x.device.type == 'cpu' and not dropout.inplace
