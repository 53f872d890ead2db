"""Dropout of the input of an adapter, whose masks are cheap on a CPU.

An adapter reads its input once, so that there the draw of a mask costs more than the product that it is for: PyTorch's
Bernoulli draws take 10 ns an element on a CPU, in one thread. Here an element costs 16 random bits. The result has the
distribution of ``nn.Dropout`` at a probability that is rounded to a multiple of 2**-16, and the scale fits the rounded
one, so that the mean stays exact. On other devices PyTorch's own kernel is used, which holds mask and product at once.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16


def noise(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Return a factor for each element, drawn on the CPU: 0 with probability ``p``, else ``1 / (1 - p)``.

    Args:
        shape: Of the result.
        p: Probability in [0, 1), rounded to a multiple of 1 / :data:`LEVELS`, and never up to 1.
        dtype: Of the result.
    """
    size = shape.numel()
    dropped = min(round(p * LEVELS), LEVELS - 1)
    words = torch.randint(-(2**63), 2**63 - 1, ((size + 3) // 4,))
    parts = words.view(torch.int16)[:size]  # uniform in [-LEVELS / 2, LEVELS / 2)
    kept = torch.ge(parts, dropped - LEVELS // 2, out=torch.empty(size, dtype=dtype))
    return kept.mul_(LEVELS / (LEVELS - dropped)).view(shape)


class InputDropout(nn.Dropout):
    """An ``nn.Dropout`` with cheaper masks on a CPU; what is drawn comes from PyTorch's default generator there too."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements in training mode; an identity otherwise."""
        if not self.training or not self.p:
            return x
        if x.device.type != 'cpu' or self.inplace:
            return F.dropout(x, self.p, True, self.inplace)
        return x * noise(x.shape, self.p, x.dtype)
