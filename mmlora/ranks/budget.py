"""Budgets: from the value of a criterion for each weight to a whole rank for each weight.

Without a total the rank is the value rounded half to even, as the published tables are, then kept within the bounds.
With one, ranks are in proportion to the values, rounded by the largest remainder, and what is left goes to the sites
whose rounding lost most (the dearest first among equals), as long as one more unit of rank fits. A total is never
exceeded.

A criterion that scores the components of each site, not the site, is no proportion: the best components over all sites
are taken, one after the other, by their score for each parameter that they cost (for ``mean_rank`` all cost the same).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOTALS = ('mean_rank', 'params', 'share')
BOUNDS = ('r_min', 'r_max', 'multiple_of')
BUDGETS = TOTALS + BOUNDS


@dataclass(frozen=True)
class Site:
    """One place that takes a rank.

    Attributes:
        value: Value of the criterion, at least 0.
        cost: Learned parameters for each unit of rank.
        limit: Largest rank that the place can take.
        scores: Scores of the components, descending, where the criterion gives them; ``value`` is not read then.
        name: Quoted in errors.
    """

    value: float
    cost: int
    limit: int
    scores: Sequence[float] | None = None
    name: str = ''


@dataclass(frozen=True)
class Budget:
    """A budget that has been checked.

    Attributes:
        kind: One of :data:`TOTALS`, or None for no total.
        total: Units of rank for each site, parameters, or share of the backbone's parameters.
        r_min: Least rank of a site. 0 lets sites go without an adapter.
        r_max: Largest rank of a site, or None.
        multiple_of: Ranks are multiples of it.
    """

    kind: str | None = None
    total: float = 0
    r_min: int = 1
    r_max: int | None = None
    multiple_of: int = 1

    def bounds(self, site: Site) -> tuple[int, int]:
        """Return the least and the largest rank of a site, as multiples of ``multiple_of``.

        Raises:
            ValueError: There is none between them.
        """
        step = self.multiple_of
        top = site.limit if self.r_max is None else min(site.limit, self.r_max)
        low, high = -(-self.r_min // step) * step, top // step * step
        if low > high:
            raise ValueError(
                f'{site.name or "a site"} takes ranks up to {site.limit}: no multiple of {step} lies between '
                f'r_min={self.r_min} and {top}'
            )
        return low, high


def check_budget(budget: Any) -> Budget:
    """Check a budget as configs write it.

    Args:
        budget: None, or a mapping with at most one total (``mean_rank``: mean over the sites, ``params``: learned
            parameters in all, ``share``: these as a share of the backbone's, in (0, 1]) and any of ``r_min``,
            ``r_max`` and ``multiple_of``.

    Raises:
        ValueError: It is none of these, names several totals, or a number is out of range.
    """
    if budget is None:
        return Budget()
    known = f'a mapping with at most one of {TOTALS} and any of {BOUNDS}'
    if not isinstance(budget, Mapping) or not budget or set(budget) - set(BUDGETS):
        raise ValueError(f'budget must be None or {known}, got {budget!r}')
    totals = [name for name in TOTALS if name in budget]
    if len(totals) > 1:
        raise ValueError(f'budget must be {known}, but {totals} are given')
    kind = totals[0] if totals else None
    total = _number(kind, budget[kind]) if kind else 0
    if kind == 'share' and total > 1:
        raise ValueError(f'budget share must lie in (0, 1], got {total!r}')
    bounds = {name: _whole(name, budget[name], 0 if name == 'r_min' else 1) for name in BOUNDS if name in budget}
    checked = Budget(kind, total, **bounds)
    if checked.r_max is not None and checked.r_min > checked.r_max:
        raise ValueError(f'budget r_min={checked.r_min} is above r_max={checked.r_max}')
    if checked.r_max is not None and checked.multiple_of > checked.r_max:
        raise ValueError(f'budget multiple_of={checked.multiple_of} is above r_max={checked.r_max}')
    return checked


def allocate(sites: Sequence[Site], budget: Mapping[str, float] | None = None, size: int | None = None) -> list[int]:
    """Return a rank for each site.

    Args:
        sites: The places, in order; all or none of them have component scores.
        budget: As for :func:`check_budget`.
        size: Parameters of the backbone, for ``share``.

    Raises:
        ValueError: The budget is not valid, asks for less than the least or more than the largest ranks, or a value is
            negative or not finite; or component scores come without a total.
    """
    checked = check_budget(budget)
    for site in sites:
        numbers = [site.value] if site.scores is None else site.scores
        if not all(0 <= x < math.inf for x in numbers):
            raise ValueError(f'the criterion of {site.name or "a site"} must be finite and at least 0, got {numbers}')
    step = checked.multiple_of
    bounds = [checked.bounds(site) for site in sites]
    if checked.kind is None:
        if any(site.scores is not None for site in sites):
            raise ValueError(f'scores of components need a budget with one of {TOTALS}, got {budget!r}')
        return [min(max(round(s.value / step) * step, low), high) for s, (low, high) in zip(sites, bounds, strict=True)]
    cost = [1 if checked.kind == 'mean_rank' else s.cost for s in sites]
    total = _total(checked, len(sites), size)
    least = sum(c * low for c, (low, _) in zip(cost, bounds, strict=True))
    most = sum(c * high for c, (_, high) in zip(cost, bounds, strict=True))
    if not least <= total <= most:
        raise ValueError(
            f'budget {dict(budget)} cannot be met: the {len(sites)} sites need at least {least} and take at most '
            f'{most} {"units of rank" if checked.kind == "mean_rank" else "parameters"}, asked for {total}'
        )
    low, high = [b[0] // step for b in bounds], [b[1] // step for b in bounds]
    units = [c * step for c in cost]
    spend = _largest_remainder if sites[0].scores is None else _best_components
    return [rank * step for rank in spend(sites, units, low, high, total, step)]


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f'budget {name} must be a positive finite number, got {value!r}')
    return value


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'budget {name} must be a whole number of at least {least}, got {value!r}')
    return value


def _total(budget: Budget, count: int, size: int | None) -> int:
    factor = {'mean_rank': count, 'params': 1, 'share': size}[budget.kind]
    if factor is None:
        raise ValueError(
            f'budget share={budget.total} needs the number of parameters of the backbone, which is not known here: '
            'give params instead'
        )
    exact = budget.total * factor
    return round(exact) if math.isclose(exact, round(exact), rel_tol=1e-12) else math.floor(exact)


def _largest_remainder(
    sites: Sequence[Site], cost: Sequence[int], low: Sequence[int], high: Sequence[int], total: int, step: int
) -> list[int]:
    """Give every site its share cut to a whole number of units in low..high, then the rest by the largest remainder."""
    values = [s.value for s in sites]

    def shares(factor: float) -> list[float]:
        return [min(max(v * factor, a), b) for v, a, b in zip(values, low, high, strict=True)]

    under, over = 0.0, max((b / v for v, b in zip(values, high, strict=True) if v > 0), default=0.0)
    for _ in range(100):  # the share grows with the factor; caps and floors make it piecewise linear, so bisect
        middle = (under + over) / 2
        spent = sum(c * share for c, share in zip(cost, shares(middle), strict=True))
        under, over = (middle, over) if spent <= total else (under, middle)
    ranks = [int(share) for share in shares(under)]
    wanted = [v * under for v in values]  # below the least rank too, so that who was lifted to it comes last
    left = total - sum(c * r for c, r in zip(cost, ranks, strict=True))
    while True:
        fits = [i for i in range(len(sites)) if cost[i] <= left and ranks[i] < high[i]]
        if not fits:
            return ranks
        most = min(fits, key=lambda i: (ranks[i] - wanted[i], -cost[i], i))
        ranks[most] += 1
        left -= cost[most]


def _best_components(
    sites: Sequence[Site], cost: Sequence[int], low: Sequence[int], high: Sequence[int], total: int, step: int
) -> list[int]:
    """Give every site its least, then take the best unit of components over all sites while one fits."""
    ranks = list(low)
    left = total - sum(c * r for c, r in zip(cost, ranks, strict=True))
    while True:
        fits = [i for i in range(len(sites)) if cost[i] <= left and ranks[i] < high[i]]
        if not fits:
            return ranks
        best = max(fits, key=lambda i: (sum(sites[i].scores[ranks[i] * step :][:step]) / cost[i], -i))
        ranks[best] += 1
        left -= cost[best]
