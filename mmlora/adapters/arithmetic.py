"""One LoRA from many: averages, sums, concatenation, TIES and DARE.

The change of adapter i is ``D_i = s_i B_i A_i``. With weights w_i::

    factors      (sum w_i s_i B_i) (sum w_i A_i)      of LoRAHub (Huang et al., arXiv 2307.13269); with w_i = 1/n the
                                                      average of A and the average of B
    change       sum w_i D_i, w_i = 1/n, cut to rank r by its singular values
    sum          the same with w_i = 1: task arithmetic (Ilharco et al., ICLR 2023, arXiv 2212.04089)
    concatenate  sum w_i D_i exactly, of rank r_1 + ... + r_n
    ties         TIES (Yadav et al., NeurIPS 2023, arXiv 2306.01708), cut to rank r
    dare         DARE (Yu et al., ICML 2024, arXiv 2311.03099), cut to rank r

Ranks and scalings of the adapters may differ, and an adapter without a layer changes nothing there. One adapter with
weight 1 is itself in each of them (TIES and DARE: with density 1, below which they leave entries out).

Deviation from peft, which trims and drops entries of A and of B: here those of the change, as in the papers, whose task
vectors are the change of the weights. So the result does not depend on how a change is split into factors.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness import derive_seed
from .lora_weights import LoRAWeights, Pair, by_site

Adapters = Sequence[Mapping[tuple[str, str], Pair]]
Key = tuple[str, str]


@dataclass(frozen=True)
class Settings:
    """What a method of merging may look at.

    Attributes:
        weights: Of the adapters.
        rank: Of the result, or None for the largest of the adapters in a layer.
        density: Part of the entries that TIES and DARE keep, in (0, 1].
        seed: Of the entries that DARE drops.
    """

    weights: tuple[float, ...]
    rank: int | None = None
    density: float | None = None
    seed: int = 0


def merge_lora(
    adapters: Adapters,
    method: str = 'factors',
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> LoRAWeights:
    """Make one LoRA of several.

    Args:
        adapters: At least one, each as of :func:`mmlora.adapters.read_lora`.
        method: A name in :data:`MERGES`.
        weights: One for each adapter; by default 1/n, and 1 for ``'sum'``.
        rank: Rank of the result of the methods that cut it; by default the largest of the adapters in each layer.
        density: Part of the entries that ``'ties'`` (0.2 in its paper) and ``'dare'`` (0.1 and less) keep.
        seed: Of the entries that ``'dare'`` drops.

    Returns:
        The factors, in the type of those of the first adapter that has them.

    Raises:
        ValueError: The method is unknown, an argument is out of range or not the method's, or shapes do not fit.
    """
    if method not in MERGES:
        raise ValueError(f'unknown method {method!r}: choose one of {", ".join(MERGES)}')
    merge, count = MERGES[method], len(adapters)
    if not count:
        raise ValueError('there is no adapter to merge')
    chosen = tuple(map(float, [merge.weight(count)] * count if weights is None else weights))
    if len(chosen) != count or not all(map(math.isfinite, chosen)):
        raise ValueError(f'{count} adapters need {count} finite weights, got {chosen}')
    if (density is not None) != merge.sparse:
        wants = 'needs' if merge.sparse else 'has no use for'
        raise ValueError(f'method={method!r} {wants} a density, the part of the entries to keep, got {density}')
    if density is not None and not 0 < density <= 1:
        raise ValueError(f'density must lie in (0, 1], got {density}')
    if rank is not None and (not merge.cuts or isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        follows = f'follows from the adapters for method={method!r}'
        raise ValueError(f'the rank {"must be a whole number of at least 1" if merge.cuts else follows}, got {rank!r}')
    groups = _grouped(adapters)
    return merge.function(groups, Settings(chosen, rank, density, seed))


def low_rank_sum(pairs: Sequence[Pair], weights: Sequence[float], rank: int) -> tuple[Tensor, Tensor]:
    """Return A ``(r, in)`` and B ``(rows, r)`` of the best approximation of ``sum w_i s_i B_i A_i``.

    The sum is never formed: singular values are those of a matrix of the size of all ranks together.

    Args:
        pairs: The changes.
        weights: Their weights.
        rank: Rank of the result.
    """
    up = torch.cat([_exact(p.b) * (w * p.scaling) for p, w in zip(pairs, weights, strict=True)], 1)  # (rows, R)
    down = torch.cat([_exact(p.a) for p in pairs])  # (R, in)
    left, core_left = torch.linalg.qr(up)
    right, core_right = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    return _split(left @ u, values, v @ right.T, rank)


def cut_change(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A ``(r, in)`` and B ``(rows, r)`` of the best approximation of a dense change ``(rows, in)``."""
    return _split(*torch.linalg.svd(change, full_matrices=False), rank)


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


Groups = dict[Key, list[Pair | None]]


def _factors(groups: Groups, settings: Settings) -> LoRAWeights:
    merged = {}
    for key, pairs in groups.items():
        rank, scaling = max(p.rank for p in pairs if p), _common_scaling(pairs)
        like = next(p for p in pairs if p)
        a = torch.zeros(rank, like.a.shape[1], dtype=torch.float64, device=like.a.device)
        b = torch.zeros(like.b.shape[0], rank, dtype=torch.float64, device=like.b.device)
        for pair, weight in zip(pairs, settings.weights, strict=True):
            if pair:
                a[: pair.rank] += weight * _exact(pair.a)
                b[:, : pair.rank] += weight * (pair.scaling / scaling) * _exact(pair.b)
        merged[key] = _like(like, a, b, scaling)
    return merged


def _concatenated(groups: Groups, settings: Settings) -> LoRAWeights:
    merged = {}
    for key, pairs in groups.items():
        scaling, found = _common_scaling(pairs), list(_present(pairs, settings.weights))
        rank, limit = sum(p.rank for p, _ in found), min(found[0][0].b.shape[0], found[0][0].a.shape[1])
        if rank > limit:
            raise ValueError(f'{key[0]}: the ranks sum to {rank}, but a weight of this size takes {limit}: choose '
                             "method='change', which cuts the sum")
        a = torch.cat([_exact(p.a) for p, _ in found])
        b = torch.cat([_exact(p.b) * (w * p.scaling / scaling) for p, w in found], 1)
        merged[key] = _like(found[0][0], a, b, scaling)
    return merged


def _summed(groups: Groups, settings: Settings) -> LoRAWeights:
    merged = {}
    for key, pairs in groups.items():
        scaling, found = _common_scaling(pairs), list(_present(pairs, settings.weights))
        a, b = low_rank_sum([p for p, _ in found], [w for _, w in found], _rank(pairs, settings))
        merged[key] = _like(found[0][0], a, b, scaling, split=True)
    return merged


def _ties(groups: Groups, settings: Settings) -> LoRAWeights:
    if min(settings.weights) < 0 or not any(settings.weights):
        raise ValueError(f'the means of TIES need weights of at least 0, not all 0, got {settings.weights}')
    floors = [_magnitude_floor((pairs[i] for pairs in groups.values()), settings.density)
              for i in range(len(settings.weights))]
    merged = {}
    for key, pairs in groups.items():
        like = next(p for p in pairs if p)
        changes = torch.stack([_trimmed(p, floor, like) for p, floor in zip(pairs, floors, strict=True)])
        change = elect(changes, torch.tensor(settings.weights, dtype=changes.dtype, device=changes.device))
        merged[key] = _like(like, *cut_change(change, _rank(pairs, settings)), _common_scaling(pairs), split=True)
    return merged


def _dare(groups: Groups, settings: Settings) -> LoRAWeights:
    merged = {}
    for key, pairs in groups.items():
        like, change = next(p for p in pairs if p), 0.0
        for number, (pair, weight) in enumerate(zip(pairs, settings.weights, strict=True)):
            if pair:
                seed = derive_seed('dare', settings.seed, number, *key)
                change = change + weight * drop(_dense(pair), settings.density, seed)
        merged[key] = _like(like, *cut_change(change, _rank(pairs, settings)), _common_scaling(pairs), split=True)
    return merged


@dataclass(frozen=True)
class Merge:
    """A way to make one LoRA of several.

    Attributes:
        function: Takes the pairs by layer and the settings.
        cuts: Whether the result is cut to a rank.
        sparse: Whether it keeps a part of the entries.
        weight: The default weight of each of n adapters.
    """

    function: Callable[[Groups, Settings], LoRAWeights]
    cuts: bool = False
    sparse: bool = False
    weight: Callable[[int], float] = lambda count: 1 / count


MERGES: dict[str, Merge] = {
    'factors': Merge(_factors),
    'change': Merge(_summed, cuts=True),
    'sum': Merge(_summed, cuts=True, weight=lambda count: 1.0),
    'concatenate': Merge(_concatenated),
    'ties': Merge(_ties, cuts=True, sparse=True),
    'dare': Merge(_dare, cuts=True, sparse=True),
}


def _grouped(adapters: Adapters) -> Groups:
    """Return the pair of each adapter, or None, by layer and slice.

    Raises:
        ValueError: Adapters change weights of different sizes under one name, or split one differently.
    """
    groups: Groups = {}
    for number, adapter in enumerate(adapters):
        for key, pair in adapter.items():
            pairs = groups.setdefault(key, [None] * len(adapters))
            pairs[number] = pair
            first = next(p for p in pairs if p)
            own, other = _size(pair), _size(first)
            if own != other:
                raise ValueError(f'{" ".join(filter(None, key))}: adapter {number} changes a weight of {own[0]} x '
                                 f'{own[1]}, adapter {pairs.index(first)} one of {other[0]} x {other[1]}')
    by_site({key: next(p for p in pairs if p) for key, pairs in groups.items()})
    return groups


def _size(pair: Pair) -> tuple[int, int]:
    return pair.b.shape[0], pair.a.shape[1]


def _present(pairs: Sequence[Pair | None], weights: Sequence[float]) -> Iterator[tuple[Pair, float]]:
    return ((pair, weight) for pair, weight in zip(pairs, weights, strict=True) if pair)


def _common_scaling(pairs: Sequence[Pair | None]) -> float:
    """Return the scaling that all share, or 1: the result then holds the scalings in B."""
    found = {pair.scaling for pair in pairs if pair}
    return found.pop() if len(found) == 1 and 0 not in found else 1.0


def _rank(pairs: Sequence[Pair | None], settings: Settings) -> int:
    like = next(p for p in pairs if p)
    return min(settings.rank or max(p.rank for p in pairs if p), *_size(like))


def _like(like: Pair, a: Tensor, b: Tensor, scaling: float, split: bool = False) -> Pair:
    """Return factors in the type of a pair; ``split`` divides B by the scaling, which it does not hold yet."""
    return Pair(a.to(like.a.dtype), (b / scaling if split else b).to(like.b.dtype), scaling)


def _split(left: Tensor, values: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B from a singular value decomposition, padded with zeros where it has fewer components."""
    root = values[:rank].sqrt()
    a, b = root[:, None] * right[:rank], left[:, :rank] * root
    missing = rank - len(root)
    return torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _dense(pair: Pair) -> Tensor:
    return (_exact(pair.b) @ _exact(pair.a)) * pair.scaling


def _magnitude_floor(pairs: Iterator[Pair | None], density: float) -> float:
    """Return the magnitude from which on entries of an adapter, of all layers together, are kept."""
    sizes = torch.cat([_dense(pair).abs().reshape(-1) for pair in pairs if pair])
    kept = max(1, round(density * sizes.numel()))
    return 0.0 if density == 1 else float(sizes.kthvalue(sizes.numel() - kept + 1).values)


def _trimmed(pair: Pair | None, floor: float, like: Pair) -> Tensor:
    if pair is None:
        return torch.zeros(_size(like), dtype=torch.float64, device=like.a.device)
    change = _dense(pair)
    return change * (change.abs() >= floor)
