"""One LoRA from many: averages, sums, concatenation, TIES, DARE and magnitude pruning.

The change of adapter i is ``D_i = s_i B_i A_i``. With weights w_i::

    factors      (sum w_i s_i B_i) (sum w_i A_i)      of LoRAHub (Huang et al., arXiv 2307.13269); with w_i = 1/n the
                                                      average of A and the average of B
    linear       (sum sqrt(w_i s_i) B_i) (sum sqrt(w_i s_i) A_i), as peft has it; a sign goes to A
    change       sum w_i D_i, w_i = 1/n, cut to rank r by its singular values
    sum          the same with w_i = 1: task arithmetic (Ilharco et al., ICLR 2023, arXiv 2212.04089)
    concatenate  sum w_i D_i exactly, of rank r_1 + ... + r_n

and with entries of the D_i left out before they are summed, or before a sign is elected for each entry and those that
have it are averaged, always cut to rank r::

                      the largest entries stay                       entries are dropped at random
    sum               magnitude_prune                                dare (Yu et al., ICML 2024, arXiv 2311.03099)
    elected mean      ties (Yadav et al., NeurIPS 2023, 2306.01708)  dare_ties

Ranks and scalings of the adapters may differ, and an adapter without a layer changes nothing there. Where one adapter
splits a fused projection into slices and another does not, the slices are joined first, which is exact. One adapter
with weight 1 is itself in each method, bit for bit (with density 1, below which entries are left out).

Deviation from peft, which trims and drops entries of A and of B, and in its ``_svd`` forms those of each layer by
themselves: here those of the change count, of all layers together where the largest stay, as in the papers, whose task
vectors are the change of the weights. So the result does not depend on how a change is split into factors.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..randomness import derive_seed
from .arithmetic_math import (
    cut_change,
    dense,
    drop,
    elect,
    exact,
    low_rank_sum,
    magnitude_floor,
    padded,
    weighted_sum,
)
from .arithmetic_pairs import (
    Adapters,
    Groups,
    Key,
    as_those,
    grouped,
    largest_rank,
    present,
    settled,
    shared_scaling,
    size_of,
)
from .lora_weights import LoRAWeights, Pair


@dataclass(frozen=True)
class Settings:
    """What a method of merging may look at.

    Attributes:
        weights: Of the adapters.
        rank: Of the result, or None for the largest of the adapters in a layer.
        density: Part of the entries that sparse methods keep, in (0, 1].
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
        method: A name in :data:`MERGES`, or one of its aliases.
        weights: One for each adapter; by default 1/n, and 1 for ``'sum'``.
        rank: Rank of the result of the methods that cut it; by default the largest of the adapters in each layer.
        density: Part of the entries that ``'ties'`` (0.2 in its paper), ``'dare'`` (0.1 and less), ``'dare_ties'`` and
            ``'magnitude_prune'`` keep.
        seed: Of the entries that ``'dare'`` and ``'dare_ties'`` drop.

    Returns:
        The factors, in the widest type of those that come in.

    Raises:
        ValueError: The method is unknown, an argument is out of range or not the method's, shapes do not fit, or a
            value is not finite.
        TypeError: There is one adapter in place of a list.
    """
    name, merge = look_up_merge(method)
    if isinstance(adapters, Mapping):
        raise TypeError('adapters is one LoRA: give a list of them')
    count = len(adapters)
    if not count:
        raise ValueError('there is no adapter to merge')
    chosen = tuple(map(float, [merge.weight(count)] * count if weights is None else weights))
    if len(chosen) != count or not all(map(math.isfinite, chosen)):
        raise ValueError(f'{count} adapters need {count} finite weights, got {chosen}')
    if (density is not None) != merge.sparse:
        wants = 'needs' if merge.sparse else 'has no use for'
        raise ValueError(f'method={name!r} {wants} a density, the part of the entries to keep, got {density}')
    if density is not None and (isinstance(density, bool) or not 0 < density <= 1):
        raise ValueError(f'density must lie in (0, 1], got {density}')
    if rank is not None and (not merge.cuts or isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        follows = f'follows from the adapters for method={name!r}'
        raise ValueError(f'the rank {"must be a whole number of at least 1" if merge.cuts else follows}, got {rank!r}')
    return settled(merge.function(grouped(adapters), Settings(chosen, rank, density, seed)))


def _factorwise(
    groups: Groups, settings: Settings, shares: Callable[[float, float], tuple[float, float]]
) -> LoRAWeights:
    merged = {}
    for key, pairs in groups.items():
        rank, scaling, found = largest_rank(pairs), shared_scaling(pairs), list(present(pairs, settings.weights))
        a, b = 0.0, 0.0
        for pair, weight in found:
            of_a, of_b = shares(weight, pair.scaling / scaling)
            wide = padded(exact(pair.a), exact(pair.b), rank)
            a, b = a + of_a * wide[0], b + of_b * wide[1]
        merged[key] = as_those(pairs, a, b, scaling)
    return merged


def _weights_of_both(weight: float, ratio: float) -> tuple[float, float]:
    return weight, weight * ratio


def _roots(weight: float, ratio: float) -> tuple[float, float]:
    root = math.sqrt(abs(weight * ratio))
    return math.copysign(root, weight * ratio), root


def _concatenated(groups: Groups, settings: Settings) -> LoRAWeights:
    merged = {}
    for key, pairs in groups.items():
        scaling, found = shared_scaling(pairs), list(present(pairs, settings.weights))
        a = torch.cat([exact(p.a) for p, _ in found])
        b = torch.cat([exact(p.b) * (w * p.scaling / scaling) for p, w in found], 1)
        merged[key] = as_those(pairs, a, b, scaling)
    return merged


def _summed(groups: Groups, settings: Settings) -> LoRAWeights:
    merged = {}
    for key, pairs in groups.items():
        found, rank = list(present(pairs, settings.weights)), _rank(pairs, settings)
        merged[key] = (_alone(pairs, found[0][1], rank)
                       or _cut(pairs, *low_rank_sum([p for p, _ in found], [w for _, w in found], rank)))
    return merged


def _sparse(
    groups: Groups,
    settings: Settings,
    thinner: Callable[[Groups, Settings], Callable[[Tensor, int, Key], Tensor]],
    combine: Callable[[Tensor, Tensor], Tensor],
) -> LoRAWeights:
    thin, merged = thinner(groups, settings), {}
    for key, pairs in groups.items():
        like, rank = next(p for p in pairs if p), _rank(pairs, settings)
        weights = torch.tensor(settings.weights, dtype=torch.float64, device=like.a.device)
        ones = torch.tensor([float(p is not None) for p in pairs], dtype=torch.float64, device=like.a.device)
        whole = _alone(pairs, float(combine(ones, weights)), rank) if settings.density == 1 else None
        if whole is None:
            none = torch.zeros(size_of(like), dtype=torch.float64, device=like.a.device)
            changes = [none if pair is None else thin(dense(pair), number, key) for number, pair in enumerate(pairs)]
            whole = _cut(pairs, *cut_change(combine(torch.stack(changes), weights), rank))
        merged[key] = whole
    return merged


def _elected(changes: Tensor, weights: Tensor) -> Tensor:
    if weights.min() < 0 or not weights.any():
        raise ValueError(f'the means of TIES need weights of at least 0, not all 0, got {tuple(weights.tolist())}')
    return elect(changes, weights)


def _largest_stay(groups: Groups, settings: Settings) -> Callable[[Tensor, int, Key], Tensor]:
    floors = [magnitude_floor([dense(pairs[i]) for pairs in groups.values() if pairs[i]], settings.density)
              for i in range(len(settings.weights))]
    return lambda change, number, key: change * (change.abs() >= floors[number])


def _dropped_at_random(groups: Groups, settings: Settings) -> Callable[[Tensor, int, Key], Tensor]:
    return lambda change, number, key: drop(
        change, settings.density, derive_seed('dare', settings.seed, number, *key))


def _rank(pairs: Sequence[Pair | None], settings: Settings) -> int:
    return min(settings.rank or largest_rank(pairs), *size_of(next(p for p in pairs if p)))


def _alone(pairs: Sequence[Pair | None], share: float, rank: int) -> Pair | None:
    """Return the change of the one adapter that has a layer, times its share; no factor is computed anew, nor rounded.

    None where several have it, or it is to be cut.
    """
    found = [pair for pair in pairs if pair]
    if len(found) > 1 or found[0].rank > rank:
        return None
    scaling = shared_scaling(found)
    a, b = padded(exact(found[0].a), exact(found[0].b) * (share * (found[0].scaling / scaling)), rank)
    return as_those(pairs, a, b, scaling)


def _cut(pairs: Sequence[Pair | None], a: Tensor, b: Tensor) -> Pair:
    """Return factors that hold the scaling, divided by that of the result."""
    scaling = shared_scaling(pairs)
    return as_those(pairs, a, b / scaling, scaling)


def _mean(count: int) -> float:
    return 1 / count


def _one(count: int) -> float:
    return 1.0


@dataclass(frozen=True)
class Merge:
    """A way to make one LoRA of several.

    Attributes:
        function: Takes the pairs by layer and the settings.
        cuts: Whether the result is cut to a rank.
        sparse: Whether it keeps a part of the entries.
        random: Whether the seed matters.
        weight: The default weight of each of n adapters.
        aliases: Further names.
    """

    function: Callable[[Groups, Settings], LoRAWeights]
    cuts: bool = False
    sparse: bool = False
    random: bool = False
    weight: Callable[[int], float] = _mean
    aliases: tuple[str, ...] = ()


MERGES: dict[str, Merge] = {
    'factors': Merge(partial(_factorwise, shares=_weights_of_both), aliases=('lorahub',)),
    'linear': Merge(partial(_factorwise, shares=_roots)),
    'change': Merge(_summed, cuts=True, aliases=('svd',)),
    'sum': Merge(_summed, cuts=True, weight=_one, aliases=('task_arithmetic',)),
    'concatenate': Merge(_concatenated, aliases=('cat',)),
    'ties': Merge(partial(_sparse, thinner=_largest_stay, combine=_elected), cuts=True, sparse=True,
                  aliases=('ties_svd',)),
    'dare': Merge(partial(_sparse, thinner=_dropped_at_random, combine=weighted_sum), cuts=True, sparse=True,
                  random=True, aliases=('dare_linear', 'dare_linear_svd')),
    'dare_ties': Merge(partial(_sparse, thinner=_dropped_at_random, combine=_elected), cuts=True, sparse=True,
                       random=True, aliases=('dare_ties_svd',)),
    'magnitude_prune': Merge(partial(_sparse, thinner=_largest_stay, combine=weighted_sum), cuts=True, sparse=True,
                             aliases=('magnitude_prune_svd',)),
}  # fmt: skip
"""The methods by name. The aliases are the names of peft's ``add_weighted_adapter`` and of papers."""


def merge_names() -> list[str]:
    """Return the names of all methods, aliases too."""
    return [*MERGES, *(alias for merge in MERGES.values() for alias in merge.aliases)]


def look_up_merge(method: str) -> tuple[str, Merge]:
    """Return the name and the entry of a method in :data:`MERGES`, given that name or an alias.

    Raises:
        ValueError: There is none; the nearest names are quoted.
    """
    for name, merge in MERGES.items():
        if method in (name, *merge.aliases):
            return name, merge
    close = difflib.get_close_matches(str(method), merge_names())
    near = f'did you mean one of {close}? ' if close else ''
    raise ValueError(f'unknown method {method!r}: {near}choose one of {", ".join(MERGES)}')
