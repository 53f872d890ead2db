"""What a measurement is made of: cases that do the same work, checked to agree, timed in alternating rounds.

Machines are noisy, so that a time alone says little: in each round every case runs once, the order turns from round to
round, and a ratio is taken within a round. Reported are the median and the quartiles of the ratios over the rounds.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .memory import kept_bytes, peak_bytes
from .targets import Outcome, Target, not_measured


def processor_time() -> float:
    """Return the seconds for which processors worked for this process, in all of its threads, and its children."""
    return time.process_time() + sum(os.times()[2:4])


CLOCKS: dict[str, Callable[[], float]] = {'wall': time.perf_counter, 'cpu': processor_time}
"""What time is: that on the wall, or that for which processors worked. The second does not see what else runs on a
machine, but for caches; with one thread it is the wall time of an idle one."""

WARM_UP = 2
"""Rounds that are run and not counted, where a measurement does not say otherwise."""


class DisagreementError(RuntimeError):
    """Two ways that are said to compute the same do not: their times cannot be compared."""


@dataclass(frozen=True)
class Case:
    """One way to do the work.

    Attributes:
        name: First cell of its row.
        run: Does the work once.
        results: Returns what the work gives, by name: outputs and gradients. None where the work is another by intent
            (a floor, a frozen layer), which the table then says.
        forward: Returns the output with its graph; for the bytes that are kept for the backward pass.
        known: Tensors that are there anyway, and are not counted among the kept ones.
        facts: Returns further cells of its row by their headline, from the times that were measured: what was counted,
            what follows from the median, or what others have published.
    """

    name: str
    run: Callable[[], object]
    results: Callable[[], Mapping[str, Tensor]] | None = None
    forward: Callable[[], Tensor] | None = None
    known: Callable[[], Sequence[Tensor]] = tuple
    facts: Callable[['Spread'], Mapping[str, str]] = lambda time: {}


@dataclass(frozen=True)
class Comparison:
    """Cases side by side.

    Attributes:
        title: Headline of the table.
        cases: The ways, each of another name.
        base: Name of the case that ratios are taken to.
        reference: Name of the case that the results of the others are compared with; None where each case does other
            work, and nothing is compared.
        tolerance: Largest difference, relative to the largest entry of the reference.
        note: Said under the headline.
        rounds: Number of rounds that are counted.
        warm_up: Number of rounds before them; 0 where a run is long, and the check of the results has warmed up.
        rate: What a run does, for a column of a rate: its name, such as ``'LoRAs per minute'``, and how many of these
            a run that takes one second has reached. None leaves the column out.
        targets: What cases are meant to reach beside others; said under the table, and in a table of all at the end.
        absent: Cases that a package would bring which is not installed -> that package; see :func:`absent`.
        peaks: Whether the peak of the memory is measured; on a CPU it costs some microseconds for each operation.
        long: Whether the results are compared after the rounds and not before, because they are those of the timed
            runs; see :func:`remembered`.
    """

    title: str
    cases: Sequence[Case]
    base: str
    reference: str | None
    tolerance: float
    note: str = ''
    rounds: int = 15
    warm_up: int = WARM_UP
    rate: tuple[str, float] | None = None
    targets: Sequence[Target] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    peaks: bool = True
    long: bool = False

    def case(self, name: str) -> Case:
        """Return the case of a name.

        Raises:
            ValueError: There is none.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise ValueError(f'{self.title!r} has no case {name!r}; it has {[case.name for case in self.cases]}')


@dataclass(frozen=True)
class Growth:
    """How the cost of one way grows with one size.

    Attributes:
        title: Headline of the table.
        parameter: What grows.
        cases: The way at each size.
        rounds: Number of rounds that are counted.
        peaks: Whether the peak of the memory is measured.
    """

    title: str
    parameter: str
    cases: Mapping[int, Case]
    rounds: int = 9
    peaks: bool = True


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """What was measured of one case; times in ms, memory in bytes."""

    name: str
    time: Spread
    ratio: Spread
    kept: int | None
    peak: int | None
    difference: float | None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Rounds:
    """Times of each case in ms, one for each round."""

    times: dict[str, list[float]] = field(default_factory=dict)

    def spread(self, name: str) -> Spread:
        """Return the spread of the times of a case."""
        return spread(self.times[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Return the spread of the ratios of a case to the base, each taken within one round."""
        return spread([one / other for one, other in zip(self.times[name], self.times[base], strict=True)])


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError('nothing was measured: at least one round is needed')
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method='inclusive')
    return Spread(median, low, high)


def difference(own: Mapping[str, Tensor], reference: Mapping[str, Tensor], who: str = 'a case') -> float:
    """Return the largest difference of all tensors, each relative to the largest entry of the reference's.

    Raises:
        DisagreementError: A tensor is missing in one of both, of another shape, empty, or not finite; or there is none.
    """
    worst = 0.0
    if not reference:
        raise DisagreementError(f'the reference that {who} is compared with gives nothing')
    more = sorted(set(own) - set(reference))
    if more:
        raise DisagreementError(f'{who} gives {more}, which the reference does not')
    for name, expected in reference.items():
        if name not in own:
            raise DisagreementError(f'{who} gives no {name!r}')
        given = own[name]
        if given.shape != expected.shape:
            raise DisagreementError(f'{name!r} of {who} is {tuple(given.shape)}, expected {tuple(expected.shape)}')
        if not expected.numel():
            raise DisagreementError(f'{name!r} of the reference is empty')
        gap = (given.detach().double() - expected.detach().double()).abs().max().item()
        gap /= max(expected.detach().double().abs().max().item(), 1e-30)
        if not math.isfinite(gap):
            raise DisagreementError(f'{name!r} of {who} or of the reference is not finite')
        worst = max(worst, gap)
    return worst


def check_agreement(comparison: Comparison) -> dict[str, float]:
    """Return the difference of each case that has results from the reference.

    Raises:
        DisagreementError: One is larger than the tolerance.
        ValueError: The reference has no results, or nothing else has although no package is missing; or there is no
            reference, and a case has results.
    """
    if comparison.reference is None:
        compared = [case.name for case in comparison.cases if case.results is not None]
        if compared:
            raise ValueError(f'{comparison.title!r} has no reference to compare {compared} with')
        return {}
    reference = comparison.case(comparison.reference)
    if reference.results is None:
        raise ValueError(f'the reference {reference.name!r} of {comparison.title!r} has no results')
    expected, found = dict(reference.results()), {}
    for case in comparison.cases:
        if case is reference or case.results is None:
            continue
        gap = difference(case.results(), expected, repr(case.name))
        if gap > comparison.tolerance:
            raise DisagreementError(
                f'{case.name!r} differs from {reference.name!r} by {gap:.1e}, more than {comparison.tolerance:.0e}: '
                'they do not do the same work, so that no ratio is given'
            )
        found[case.name] = gap
    if not found and not comparison.absent:
        raise ValueError(f'{comparison.title!r} compares nothing with {reference.name!r}: its reference must be None')
    return found


def absent(**packages: str) -> dict[str, str]:
    """Return those of ``case=package`` whose package is not installed; underscores of a case stand for spaces."""
    return {case.replace('_', ' '): name for case, name in packages.items() if find_spec(name) is None}


def remembered(
    name: str,
    run: Callable[[], Any],
    results: Callable[[Any], Mapping[str, Tensor]],
    facts: Callable[[Spread], Mapping[str, str]] = lambda time: {},
) -> Case:
    """Return a case whose results are made of what its last run gave; it runs for them only where it has not run."""
    last: list[Any] = []

    def remember() -> None:
        last[:] = [run()]

    def given() -> Mapping[str, Tensor]:
        if not last:
            remember()
        return results(last[0])

    return Case(name, remember, given, facts=facts)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def alternate(
    cases: Sequence[Case], rounds: int, device: torch.device, clock: str = 'wall', warm_up: int = WARM_UP
) -> Rounds:
    """Run every case once a round, each round beginning with another one, and return the times."""
    result, now = Rounds({case.name: [] for case in cases}), CLOCKS[clock]
    for turn in range(warm_up + rounds):
        start = turn % len(cases)
        for case in [*cases[start:], *cases[:start]]:
            synchronize(device)
            begin = now()
            case.run()
            synchronize(device)
            if turn >= warm_up:
                result.times[case.name].append(1000 * (now() - begin))
    return result


def measure(
    comparison: Comparison, device: torch.device, rounds: int | None = None, clock: str = 'wall'
) -> tuple[list[Row], list[Outcome]]:
    """Check that the cases agree, then time them, count their bytes and look at the targets; long ones are timed first.

    Raises:
        DisagreementError: They do not; nothing is reported then.
    """
    comparison.case(comparison.base)
    for target in comparison.targets:
        for name in {target.case, target.base} - set(comparison.absent):
            comparison.case(name)
    gaps = {} if comparison.long else check_agreement(comparison)
    times = alternate(comparison.cases, rounds or comparison.rounds, device, clock, comparison.warm_up)
    gaps = check_agreement(comparison) if comparison.long else gaps
    spans = {case.name: times.spread(case.name) for case in comparison.cases}
    rows = [
        Row(
            case.name,
            spans[case.name],
            times.ratio(case.name, comparison.base),
            None if case.forward is None else kept_bytes(case.forward, case.known()),
            peak_bytes(case.run, device) if comparison.peaks else None,
            gaps.get(case.name),
            case.facts(spans[case.name]),
        )
        for case in comparison.cases
    ]
    return rows, outcomes(comparison, rows, times)


def outcomes(comparison: Comparison, rows: Sequence[Row], times: Rounds) -> list[Outcome]:
    """Return what became of the targets of a comparison."""
    by_name, found = {row.name: row for row in rows}, []
    for target in comparison.targets:
        if {target.case, target.base} & set(comparison.absent):
            found.append(not_measured(target, comparison.title, comparison.absent))
        elif target.of == 'time':
            own = times.ratio(target.case, target.base)
            found.append(Outcome(target, comparison.title, (own.median, own.low, own.high)))
        else:
            own, other = (getattr(by_name[name], target.of) for name in (target.case, target.base))
            found.append(
                Outcome(target, comparison.title, (own / other,) * 3)
                if own is not None and other
                else not_measured(target, comparison.title, {}, 'no such memory here')
            )
    return found


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return e of the power law ``cost ~ size ** e`` that fits best in least squares of the logarithms.

    Raises:
        ValueError: There are fewer than two different sizes, or something is not positive.
    """
    if len(sizes) != len(costs) or len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        raise ValueError(f'need at least two different sizes and as many costs, all positive, got {sizes} and {costs}')
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def measure_growth(
    growth: Growth, device: torch.device, rounds: int | None = None, clock: str = 'wall'
) -> dict[int, tuple[Spread, int, int | None]]:
    """Return the time, the kept bytes and the peak at each size."""
    times = alternate(list(growth.cases.values()), rounds or growth.rounds, device, clock)
    return {
        size: (
            times.spread(case.name),
            kept_bytes(case.forward or case.run, case.known()),
            peak_bytes(case.run, device) if growth.peaks else None,
        )
        for size, case in growth.cases.items()
    }
