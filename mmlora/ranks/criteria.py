"""Criteria: what decides how large the change of a frozen weight may be.

======================  ==================================================================================
``stable_rank``         ``||W||_F^2 / ||W||_2^2``. Zhang, Wang, Gu, "Beyond Low-Rank Tuning: Model Prior-Guided Rank
                        Allocation for Effective Transfer in Low-Data and Large-Gap Regimes", ICCV 2025,
                        arXiv 2507.00327. Between 1 and the rank, free of the size of W, robust to small changes.
``effective_rank``      ``exp(H(p))``, the exponential of Shannon's entropy of ``p_i = s_i / sum(s)``. Roy, Vetterli,
                        "The effective rank: A measure of effective dimensionality", EUSIPCO 2007.
                        ``effective_rank@2`` takes ``p_i = s_i^2 / sum(s^2)``, ``@power`` in general.
``energy@p``            The smallest r whose leading squared singular values hold the share p of all, ``0 < p <= 1``.
``uniform``             1 for every weight: the control of equal ranks.
``random@seed``         Log-uniform on [1, 16), from the seed and the name of the module alone: the control of ranks
                        that mean nothing. The seed is 0 by default.
``eva``, ``gradient``   From batches of training data; see :mod:`.data_driven`.
======================  ==================================================================================

An entry of :data:`CRITERIA` says what it reads of a weight, so that none pays for more. A parameter is written after
``@`` in the name.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..randomness import derive_seed
from .data_driven import component_scores, gradient_importance
from .spectrum import Spectrum


@dataclass(frozen=True)
class Criterion:
    """One way to value a weight.

    Attributes:
        value: From :class:`Spectrum`, and the parameter where there is one, to a number above 0. None for criteria
            that read data.
        reads: What it needs of a weight, one of :data:`mmlora.ranks.spectrum.READS`, or ``'data'``.
        needs_budget: Whether the values are only meaningful relative to each other, so that a total must be given.
        parse: Reads the parameter after ``@`` and raises ValueError, saying what is wanted; None takes none.
        default: Parameter where none is written; None asks for one.
        measure: For ``'data'``: see :mod:`.data_driven`.
    """

    value: Callable[..., float] | None
    reads: str = 'norms'
    needs_budget: bool = False
    parse: Callable[[str], Any] | None = None
    default: Any = None
    measure: Callable[..., list] | None = None


def stable_rank(spectrum: Spectrum) -> float:
    """Return ``||W||_F^2 / ||W||_2^2``, a number in ``[1, min(out, in)]``."""
    return (spectrum.fro / spectrum.sigma1) ** 2


def effective_rank(spectrum: Spectrum, power: float = 1.0) -> float:
    """Return the exponential of the entropy of the singular values to a power, a number in ``[1, min(out, in)]``.

    Args:
        spectrum: With all singular values.
        power: 1 as published; 2 weighs by energy.
    """
    weights = (np.asarray(spectrum.values) / spectrum.sigma1) ** power
    p = weights / weights.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def energy(spectrum: Spectrum, share: float) -> float:
    """Return the smallest r whose leading squared singular values hold a share of their sum.

    Args:
        spectrum: With all singular values.
        share: In (0, 1].
    """
    squares = np.asarray(spectrum.values) ** 2
    tail = np.cumsum(squares[::-1])[::-1]  # what is lost by stopping before each value
    lost = (1 - share + 1e-14) * tail[0]
    return float(max(int((tail > lost).sum()), 1))


def uniform(spectrum: Spectrum) -> float:
    """Return 1."""
    return 1.0


def random(spectrum: Spectrum, seed: int = 0) -> float:
    """Return a log-uniform draw from [1, 16) that depends on the seed and the name of the weight alone."""
    return 16 ** (derive_seed('random rank', seed, spectrum.module) / 2**63)


def _share(text: str) -> float:
    share = _number(text)
    if not 0 < share <= 1:
        raise ValueError('a share in (0, 1]')
    return share


def _power(text: str) -> float:
    power = _number(text)
    if not 0 < power < math.inf:
        raise ValueError('a positive number')
    return power


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError('a whole number of at least 0')
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


CRITERIA: dict[str, Criterion] = {
    'stable_rank': Criterion(stable_rank),
    'effective_rank': Criterion(effective_rank, 'values', parse=_power, default=1.0),
    'energy': Criterion(energy, 'values', parse=_share),
    'uniform': Criterion(uniform, 'shape', needs_budget=True),
    'random': Criterion(random, 'shape', needs_budget=True, parse=_seed, default=0),
    'eva': Criterion(None, 'data', needs_budget=True, measure=component_scores),
    'gradient': Criterion(None, 'data', needs_budget=True, measure=gradient_importance),
}


def is_criterion(name: str) -> bool:
    """Return whether a text names a criterion, be its parameter right or wrong."""
    return name.partition('@')[0] in CRITERIA


def resolve_criterion(name: str) -> Criterion:
    """Return the criterion of that name; its ``value`` takes a :class:`Spectrum` alone.

    Args:
        name: A key of :data:`CRITERIA`, with the parameter after ``@`` where it takes one.

    Raises:
        ValueError: There is none of that name, or its parameter is missing, out of range, or not taken.
    """
    kind, at, text = str(name).partition('@')
    if kind not in CRITERIA:
        close = difflib.get_close_matches(kind, CRITERIA) or sorted(CRITERIA)
        raise ValueError(f'unknown criterion {name!r}: did you mean one of {close}?')
    entry = CRITERIA[kind]
    if entry.parse is None:
        if at:
            raise ValueError(f'criterion {name!r}: {kind} takes no parameter after "@"')
        return entry
    if not at:
        if entry.default is None:
            raise ValueError(f'criterion {name!r} needs a parameter after "@", such as {kind}@0.9')
        parameter = entry.default
    else:
        try:
            parameter = entry.parse(text)
        except ValueError as error:
            raise ValueError(f'criterion {name!r}: the parameter {text!r} of {kind} must be {error}') from None
    return replace(entry, value=partial(_with_parameter, entry.value, parameter))


def _with_parameter(value: Callable[..., float], parameter: Any, spectrum: Spectrum) -> float:
    return value(spectrum, parameter)
