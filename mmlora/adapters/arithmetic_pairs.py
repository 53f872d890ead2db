"""The pairs of several LoRAs side by side, layer by layer: what methods of merging work on."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..fused import layout_of
from .arithmetic_math import low_rank_sum
from .lora_weights import LoRAWeights, Pair, by_site, common_scaling

Adapters = Sequence[Mapping[tuple[str, str], Pair]]
Key = tuple[str, str]
Groups = dict[Key, list[Pair | None]]
"""The pair of each adapter, or None, by layer and slice."""


def grouped(adapters: Adapters) -> Groups:
    """Return the pair of each adapter, or None, by layer and slice.

    Raises:
        ValueError: There is no pair at all, one is not finite, or adapters change weights of different sizes under one
            name.
    """
    groups: Groups = {}
    for number, adapter in enumerate(aligned(adapters)):
        for key, pair in adapter.items():
            where = f'{" ".join(filter(None, key))}: adapter {number}'
            if not (math.isfinite(pair.scaling) and pair.a.isfinite().all() and pair.b.isfinite().all()):
                raise ValueError(f'{where} holds values that are not finite, as of a training that diverged: leave it '
                                 'out')
            pairs = groups.setdefault(key, [None] * len(adapters))
            pairs[number] = pair
            first = next(p for p in pairs if p)
            own, other = size_of(pair), size_of(first)
            if own != other:
                raise ValueError(f'{where} changes a weight of {own[0]} x {own[1]}, adapter {pairs.index(first)} one '
                                 f'of {other[0]} x {other[1]}')
    if not groups:
        raise ValueError('the adapters change no layer: there is nothing to merge')
    return groups


def aligned(adapters: Adapters) -> list[LoRAWeights]:
    """Return the adapters with the slices of a layer joined where another adapter changes it as one weight."""
    whole = {site for adapter in adapters for site, part in adapter if not part}
    found: list[LoRAWeights] = []
    for adapter in adapters:
        found.append({})
        for site, parts in by_site(adapter).items():
            joined = {'': join_parts(site, parts)} if site in whole and '' not in parts else parts
            found[-1].update({(site, part): pair for part, pair in joined.items()})
    return found


def join_parts(site: str, parts: Mapping[str, Pair]) -> Pair:
    """Return the changes of the slices of a fused projection as one of the whole weight: B lies as blocks."""
    scaling = shared_scaling(list(parts.values()))
    rows = next(iter(parts.values())).b
    layout = [part for part in layout_of(site) if part in parts]
    blocks = [parts[part].b * (parts[part].scaling / scaling) if part in parts else rows.new_zeros(len(rows), 0)
              for part in layout_of(site)]
    return Pair(torch.cat([parts[part].a for part in layout]), torch.block_diag(*blocks), scaling)


def settled(weights: LoRAWeights) -> LoRAWeights:
    """Return a LoRA in the order of the rows, with scalings that a layer with slices can have.

    A rank above that of the weight is cut to it, which is exact.

    Raises:
        ValueError: A value is too large for the type of the factors.
    """
    found: LoRAWeights = {}
    for site, parts in by_site(weights).items():
        try:
            common_scaling({part: (pair.scaling, pair.rank) for part, pair in parts.items()})
        except ValueError:  # No rule gives the slices their scalings: B holds them.
            parts = {part: Pair(pair.a, pair.b * pair.scaling, 1.0) for part, pair in parts.items()}
        for part in sorted(parts, key=['', *layout_of(site)].index):
            pair = parts[part]
            if pair.rank > min(size_of(pair)):
                a, b = low_rank_sum([pair._replace(scaling=1.0)], [1.0], min(size_of(pair)))
                pair = as_those([pair], a, b, pair.scaling)
            if not (pair.a.isfinite().all() and pair.b.isfinite().all()):
                raise ValueError(f'{site}: the merged factors are too large for {pair.b.dtype}: give smaller weights, '
                                 'or adapters in single precision')
            found[site, part] = pair
    return found


def size_of(pair: Pair) -> tuple[int, int]:
    """Return the numbers of rows and columns of the weight that a pair changes."""
    return pair.b.shape[0], pair.a.shape[1]


def present(pairs: Sequence[Pair | None], weights: Sequence[float]) -> Iterator[tuple[Pair, float]]:
    """Return the pairs of the adapters that have a layer, each with its weight."""
    return ((pair, weight) for pair, weight in zip(pairs, weights, strict=True) if pair)


def shared_scaling(pairs: Sequence[Pair | None]) -> float:
    """Return the scaling that all share, or 1: the result then holds the scalings in B."""
    found = {pair.scaling for pair in pairs if pair}
    return found.pop() if len(found) == 1 and 0 not in found else 1.0


def largest_rank(pairs: Sequence[Pair | None]) -> int:
    """Return the largest rank of the adapters in a layer."""
    return max(pair.rank for pair in pairs if pair)


def as_those(pairs: Sequence[Pair | None], a: Tensor, b: Tensor, scaling: float) -> Pair:
    """Return factors in the widest type of those of the adapters."""
    found = [pair for pair in pairs if pair]
    of_a, of_b = found[0].a.dtype, found[0].b.dtype
    for pair in found[1:]:
        of_a, of_b = torch.promote_types(of_a, pair.a.dtype), torch.promote_types(of_b, pair.b.dtype)
    return Pair(a.to(of_a), b.to(of_b), scaling)
