"""Scaling of a low-rank change: the number that multiplies ``B A``.

``alpha/r`` is LoRA's (Hu et al., ICLR 2022, arXiv 2106.09685), ``alpha/sqrt(r)`` is rsLoRA's (Kalajdzievski, 2023,
arXiv 2312.03732), ``constant`` takes alpha itself and so does not confound the size of the change with the rank.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SCALINGS: dict[str, Callable[[float, int], float]] = {
    'alpha/r': lambda alpha, rank: alpha / rank,
    'alpha/sqrt(r)': lambda alpha, rank: alpha / math.sqrt(rank),
    'constant': lambda alpha, rank: alpha,
}


def resolve_scaling(scaling: str | float, alpha: float, rank: int) -> float:
    """Return the factor of a change of this rank.

    Args:
        scaling: A name in :data:`SCALINGS`, or a finite number that is taken as it is.
        alpha: Numerator of the named rules.
        rank: Rank of the change, at least 1.

    Raises:
        ValueError: The name is unknown, or a number is not finite.
    """
    if isinstance(scaling, str):
        if scaling not in SCALINGS:
            raise ValueError(f'unknown scaling {scaling!r}: choose one of {sorted(SCALINGS)} or give a number')
        value = SCALINGS[scaling](float(alpha), rank)
    else:
        value = float(scaling)
    if not math.isfinite(value):
        raise ValueError(f'scaling must be finite, but scaling={scaling!r} with alpha={alpha!r} gives {value}')
    return value


def shortest(value: Tensor) -> float:
    """Return the number with the fewest digits that a float of this type stands for: 0.1, not 0.10000000149."""
    exact = np.float64 if value.dtype == torch.float64 else np.float32
    return float(str(exact(value.item())))
