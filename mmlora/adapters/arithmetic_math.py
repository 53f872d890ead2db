"""Sums, cuts, elections and pruning of changes: the mathematics of :mod:`.arithmetic`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .lora_weights import Pair


def low_rank_sum(pairs: Sequence[Pair], weights: Sequence[float], rank: int) -> tuple[Tensor, Tensor]:
    """Return A ``(r, in)`` and B ``(rows, r)`` of the best approximation of ``sum w_i s_i B_i A_i``.

    The sum is never formed: singular values are those of a matrix of the size of all ranks together.

    Args:
        pairs: The changes.
        weights: Their weights.
        rank: Rank of the result.
    """
    up = torch.cat([exact(p.b) * (w * p.scaling) for p, w in zip(pairs, weights, strict=True)], 1)  # (rows, R)
    down = torch.cat([exact(p.a) for p in pairs])  # (R, in)
    left, core_left = torch.linalg.qr(up)
    right, core_right = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    return _split(left @ u, values, v @ right.T, rank)


def cut_change(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A ``(r, in)`` and B ``(rows, r)`` of the best approximation of a dense change ``(rows, in)``."""
    return _split(*torch.linalg.svd(change, full_matrices=False), rank)


def weighted_sum(changes: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum w_i D_i``, ``(...)``, for changes ``(n, ...)`` and weights ``(n,)``."""
    return torch.tensordot(weights, changes, 1)


def elect(changes: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of the entries that agree with the elected sign: steps 2 and 3 of TIES.

    Args:
        changes: ``(n, ...)``, trimmed.
        weights: ``(n,)``, not negative.

    Returns:
        ``(...)``: for each entry the weighted mean of those changes that are not 0 and have the sign of the weighted
        sum.
    """
    weights = weights.reshape(-1, *[1] * (changes.ndim - 1))
    sign = (changes * weights).sum(0).sign()
    agree = (changes.sign() == sign) & (sign != 0)
    total = (weights * agree).sum(0)
    return (changes * weights * agree).sum(0) / total.where(total != 0, torch.ones_like(total))


def drop(change: Tensor, density: float, seed: int) -> Tensor:
    """Keep each entry with probability ``density`` and divide it by that, so that the mean stays: DARE."""
    if density == 1:
        return change
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(change.shape, generator=generator, dtype=torch.float64) < density
    return change * kept.to(change.device) / density


def magnitude_floor(changes: Sequence[Tensor], density: float) -> float:
    """Return the magnitude from which on entries, of all changes together, are kept."""
    if density == 1:
        return 0.0
    sizes = torch.cat([change.abs().reshape(-1) for change in changes])
    kept = max(1, round(density * sizes.numel()))
    return float(sizes.kthvalue(sizes.numel() - kept + 1).values)


def dense(pair: Pair) -> Tensor:
    """Return the change ``(rows, in)`` in double precision."""
    return (exact(pair.b) @ exact(pair.a)) * pair.scaling


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision, without gradients."""
    return tensor.detach().double()


def padded(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A ``(rank, in)`` and B ``(rows, rank)``, filled with zeros."""
    missing = rank - len(a)
    return F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))


def _split(left: Tensor, values: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B from a singular value decomposition, which may have fewer components than the rank."""
    root = values[:rank].sqrt()
    return padded(root[:, None] * right[:rank], left[:, :rank] * root, rank)
