"""Budgets: from the value of a criterion for each weight to a whole rank for each weight.

Without a budget the rank is the value rounded half to even, as the published tables are. With one, ranks are in
proportion to the values, rounded by the largest remainder, and what is left of the budget goes to the sites whose
rounding lost most, as long as one more unit of rank fits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BUDGETS = ('mean_rank', 'params')


@dataclass(frozen=True)
class Site:
    """One place that takes a rank.

    Attributes:
        value: Value of the criterion, positive.
        cost: Learned parameters for each unit of rank.
        limit: Largest rank that the place can take.
    """

    value: float
    cost: int
    limit: int


def allocate(sites: Sequence[Site], budget: Mapping[str, float] | None = None) -> list[int]:
    """Return a rank for each site.

    Args:
        sites: The places, in order.
        budget: None, ``{'mean_rank': r}`` (mean over the sites) or ``{'params': n}`` (learned parameters in all).

    Raises:
        ValueError: The budget is unknown, not positive, below one unit of rank a site, or above what all can take.
    """
    if budget is None:
        return [min(max(round(s.value), 1), s.limit) for s in sites]
    name, total = _check_budget(budget, sites)
    cost = [1 if name == 'mean_rank' else s.cost for s in sites]
    if name == 'mean_rank':
        total = int(total * len(sites))
    least, most = sum(cost), sum(c * s.limit for c, s in zip(cost, sites, strict=True))
    if not least <= total <= most:
        raise ValueError(
            f'budget {dict(budget)} cannot be met: the {len(sites)} sites need at least {least} and take at most '
            f'{most} {"units of rank" if name == "mean_rank" else "parameters"}, asked for {total}'
        )
    return _largest_remainder(sites, cost, total)


def _check_budget(budget: Mapping[str, float], sites: Sequence[Site]) -> tuple[str, float]:
    if not isinstance(budget, Mapping) or len(budget) != 1 or next(iter(budget)) not in BUDGETS:
        raise ValueError(f'budget must be None or a mapping with one of {BUDGETS}, got {budget!r}')
    name, total = next(iter(budget.items()))
    if isinstance(total, bool) or not isinstance(total, (int, float)) or not 0 < total < math.inf:
        raise ValueError(f'budget {name} must be a positive finite number, got {total!r}')
    return name, total


def _largest_remainder(sites: Sequence[Site], cost: Sequence[int], total: float) -> list[int]:
    """Give every site its share cut to a whole number in 1..limit, then the rest by the largest remainder."""
    low, high = 0.0, max(s.limit / s.value for s in sites)
    for _ in range(100):  # the share grows with the factor; caps and floors make it piecewise linear, so bisect
        middle = (low + high) / 2
        spent = sum(c * min(max(s.value * middle, 1), s.limit) for s, c in zip(sites, cost, strict=True))
        low, high = (middle, high) if spent <= total else (low, middle)
    shares = [min(max(s.value * low, 1), s.limit) for s in sites]
    ranks = [int(share) for share in shares]
    left = total - sum(c * r for c, r in zip(cost, ranks, strict=True))
    while True:
        fits = [i for i in range(len(sites)) if cost[i] <= left and ranks[i] < sites[i].limit]
        if not fits:
            return ranks
        most = min(fits, key=lambda i: (ranks[i] - shares[i], i))
        ranks[most] += 1
        left -= cost[most]
