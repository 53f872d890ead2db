"""Criteria: what a frozen weight says about the rank of its change.

Stable rank: Zhang, Wang, Gu, "Beyond Low-Rank Tuning: Model Prior-Guided Rank Allocation for Effective Transfer in
Low-Data and Large-Gap Regimes", ICCV 2025, arXiv 2507.00327: ``||W||_F^2 / ||W||_2^2``. It lies between 1 and the
rank, does not depend on the size of W, and changes little under small perturbations.

A criterion is an entry of :data:`CRITERIA`: a function from :class:`Spectrum` to a real number.
"""

from collections.abc import Callable

from .spectrum import Spectrum


def stable_rank(spectrum: Spectrum) -> float:
    """Return ``||W||_F^2 / ||W||_2^2``, a number in ``[1, min(out, in)]``."""
    return (spectrum.fro / spectrum.sigma1) ** 2


CRITERIA: dict[str, Callable[[Spectrum], float]] = {'stable_rank': stable_rank}


def resolve_criterion(name: str) -> Callable[[Spectrum], float]:
    """Return the criterion of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in CRITERIA:
        raise ValueError(f'unknown criterion {name!r}: choose one of {sorted(CRITERIA)}')
    return CRITERIA[name]
