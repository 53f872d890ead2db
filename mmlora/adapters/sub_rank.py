"""Sub-ranks: a low-rank change that uses its first components only.

DyLoRA (Valipour et al., EACL 2023, arXiv 2210.07558) trains the first m of r components at a time, so that one training
serves every rank up to r; SR-LoRA (ICCV 2025, arXiv 2507.00327) calls it stochastic partial update. With m of r
components::

    y = W x + s_m B[:, :m] A[:m] x        s_m: what the scaling rule gives at rank m, alpha / m for 'alpha/r'

Deviation from the published SR-LoRA code: on a fused projection each slice uses its own first rows of A. The published
code takes rows g m .. (g+1) m - 1 of the stacked A for slice number g, so that a row belongs to q at one step and to v
at another; ``rows='reference'`` repeats that for comparisons.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .low_rank import Factors, LowRankLinear
from .scaling import resolve_scaling


def own_rows(factors: Factors, name: str, rank: int) -> Tensor:
    """Return the first rows of the A of a slice, ``(rank, in)``."""
    return factors[name][0][:rank]


def stacked_rows(factors: Factors, name: str, rank: int) -> Tensor:
    """Return the rows of A that the published code gives to a slice, ``(rank, in)``; see the head of this file."""
    stacked = torch.cat([a for a, _ in factors.values()])  # (sum of r_s, in)
    start = list(factors).index(name) * rank
    return stacked[start : start + rank]


ROWS: dict[str, Callable[[Factors, str, int], Tensor]] = {'per_group': own_rows, 'reference': stacked_rows}
"""Which rows of A a slice uses."""


def cut_factors(
    factors: Factors, ranks: Mapping[str, int], rows: str = 'per_group', detach_prefix: bool = False
) -> Factors:
    """Return the factors of the first components.

    Args:
        factors: For each slice A ``(r_s, in)`` and B ``(rows, r_s)``.
        ranks: Number of components of each slice, 1 to r_s.
        rows: A name in :data:`ROWS`.
        detach_prefix: Whether only the last of the components gets a gradient.

    Returns:
        For each slice A ``(m_s, in)`` and B ``(rows, m_s)``. Gradients reach the whole factors, with zeros for the
        components that are left out or detached.
    """
    cut = {}
    for name, (_, whole) in factors.items():
        a, b = ROWS[rows](factors, name, ranks[name]), whole[:, : ranks[name]]
        if detach_prefix:
            a = torch.cat([a[:-1].detach(), a[-1:]])
            b = torch.cat([b[:, :-1].detach(), b[:, -1:]], dim=1)
        cut[name] = (a, b)
    return cut


@dataclass(frozen=True)
class SubRank:
    """What a layer uses of its change.

    Attributes:
        ranks: Number of components of each slice.
        rows: A name in :data:`ROWS`.
        detach_prefix: Whether only the last of the components gets a gradient.
        always: Whether it holds in evaluation too; else in training mode only.
        rescale: Whether the scaling follows the rule at the sub-rank; else it stays that of the full rank.
    """

    ranks: dict[str, int]
    rows: str = 'per_group'
    detach_prefix: bool = False
    always: bool = False
    rescale: bool = True


class SubRankLinear(LowRankLinear):
    """A low-rank layer that can use its first components only.

    A sub-rank is no part of the state: ``state_dict()``, ``factors()``, ``delta()``, ``ranks`` and ``merge()`` stay
    those of the full rank. It holds in training mode only, unless ``always`` asks for more.

    Subclasses set :attr:`alpha` and :attr:`scaling_rule` and call :meth:`active` in :meth:`change`.
    """

    alpha: float
    scaling_rule: str | float
    sub_rank: SubRank | None = None

    def scaling_at(self, rank: int) -> float:
        """Return the scaling of a change of this rank, by the rule of this layer."""
        return resolve_scaling(self.scaling_rule, self.alpha, rank)

    def use_sub_rank(
        self,
        rank: int | Mapping[str, int],
        rows: str = 'per_group',
        detach_prefix: bool = False,
        always: bool = False,
        rescale: bool = True,
    ) -> None:
        """Use the first components only from now on.

        Args:
            rank: Number of components, 1 to the rank; one for all slices, or ``{slice: number}``.
            rows: A name in :data:`ROWS`; ``'reference'`` needs slices of one rank.
            detach_prefix: Whether only the last of the components gets a gradient.
            always: Whether this holds in evaluation too; else in training mode only.
            rescale: Whether the scaling follows the rule at the sub-rank; else it stays that of the full rank.

        Raises:
            ValueError: A number is out of range, the rows are unknown or do not fit, or the layer is merged.
            TypeError: A number is not an integer.
        """
        full = self.ranks
        wanted = dict(rank) if isinstance(rank, Mapping) else dict.fromkeys(full, rank)
        if set(wanted) != set(full):
            raise ValueError(f'this layer has components for {sorted(full)}, got sub-ranks for {sorted(wanted)}')
        for name, m in wanted.items():
            where = f' of slice {name!r}' if name else ''
            if isinstance(m, bool) or not isinstance(m, int):
                raise TypeError(f'the sub-rank{where} must be an integer, got {m!r}')
            if not 1 <= m <= full[name]:
                raise ValueError(f'the sub-rank{where} must lie in 1..{full[name]}, got {m}')
        check_rows(rows, full)
        if rows == 'reference' and len(set(wanted.values())) > 1:
            raise ValueError(f"rows='reference' needs one sub-rank for all slices, got {wanted}")
        self._refuse_if_merged('use_sub_rank')
        self.sub_rank = SubRank(wanted, rows, detach_prefix, always, rescale)

    def use_full_rank(self) -> None:
        """Use all components again."""
        self.sub_rank = None

    def active(self) -> tuple[Factors, dict[str, float]]:
        """Return the factors and scalings that ``forward`` uses in the present mode."""
        sub = self.sub_rank
        if sub is None or not (self.training or sub.always):
            return self.factors(), self.scalings
        cut = cut_factors(self.factors(), sub.ranks, sub.rows, sub.detach_prefix)
        return cut, {name: self.scaling_at(m) for name, m in sub.ranks.items()} if sub.rescale else self.scalings

    def parameters_at(self, ranks: Mapping[str, int]) -> int:
        """Return how many learned parameters the first components have, ``{slice: number of components}``."""
        return sum(ranks[name] * (a.shape[1] + b.shape[0]) for name, (a, b) in self.factors().items())

    def merge(self) -> 'SubRankLinear':
        """Merge at full rank; see :meth:`LowRankLinear.merge`.

        Raises:
            ValueError: A sub-rank holds in evaluation too, which a merged weight would not follow.
        """
        if self.sub_rank is not None and self.sub_rank.always:
            raise ValueError('merging takes the full rank, while a sub-rank is in force: leave at_rank first')
        return super().merge()


def check_rows(rows: str, ranks: Mapping[str, int]) -> None:
    """Check that a layer of these ranks can choose its rows so.

    Raises:
        ValueError: The name is unknown, or the ranks differ where one is needed.
    """
    if rows not in ROWS:
        raise ValueError(f'unknown rows {rows!r}: choose one of {sorted(ROWS)}')
    if rows == 'reference' and len(set(ranks.values())) > 1:
        raise ValueError(f"rows='reference' needs slices of one rank, got {dict(ranks)}: use rows='per_group'")
