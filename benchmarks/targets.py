"""What a case is meant to reach beside another one, and whether it does."""

from collections.abc import Mapping
from dataclasses import dataclass

WHAT = {'time': 'time', 'kept': 'memory kept for backward', 'peak': 'peak memory'}


@dataclass(frozen=True)
class Target:
    """A case takes at most so much of what another one takes.

    Attributes:
        case: Name of the case.
        base: Name of the other one.
        at_most: Largest ratio of the case to the base; "at least 10 times as fast" is ``1 / 10``.
        of: ``'time'`` (the median of the ratios within the rounds), ``'kept'`` for backward or ``'peak'`` memory.

    Raises:
        ValueError: ``of`` or ``at_most`` is none of these.
    """

    case: str
    base: str
    at_most: float
    of: str = 'time'

    def __post_init__(self) -> None:
        if self.of not in WHAT or self.at_most <= 0:
            raise ValueError(f'a target is of {sorted(WHAT)} and above 0, got of={self.of!r}, at_most={self.at_most}')

    def __str__(self) -> str:
        if self.of == 'time' and self.at_most < 0.9:
            return f'{self.case} at least {1 / self.at_most:.3g} times as fast as {self.base}'
        return f'{self.case} at most {self.at_most:.3g} of {self.base} ({WHAT[self.of]})'


@dataclass(frozen=True)
class Outcome:
    """What became of a target.

    Attributes:
        target: The target.
        title: Headline of the comparison it belongs to.
        ratio: Median and quartiles of the ratio; None where nothing was measured.
        why: Why nothing was measured.
    """

    target: Target
    title: str
    ratio: tuple[float, float, float] | None = None
    why: str = ''

    @property
    def reached(self) -> bool | None:
        """Whether the median is within the target; None where nothing was measured."""
        return None if self.ratio is None else self.ratio[0] <= self.target.at_most

    def __str__(self) -> str:
        if self.ratio is None:
            return f'not measured ({self.why})'
        return f'{"reached" if self.reached else "missed"} ({self.found()})'

    def found(self) -> str:
        """Return the median with its quartiles, in the words of the target."""
        median, low, high = self.ratio
        if self.target.of == 'time' and self.target.at_most < 0.9:
            median, low, high = 1 / median, 1 / high, 1 / low
            return f'{median:.2f} times, quartiles {low:.2f} to {high:.2f}'
        return f'{median:.3f}' if low == high else f'{median:.3f}, quartiles {low:.3f} to {high:.3f}'


def not_measured(target: Target, title: str, absent: Mapping[str, str], error: str = '') -> Outcome:
    """Return the outcome of a target whose cases did not run: a package is missing, or the ways disagree."""
    missing = [f'{absent[name]} is not installed' for name in (target.case, target.base) if name in absent]
    return Outcome(target, title, why='; '.join(missing) or error)
