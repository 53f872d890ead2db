"""Results of many runs, read from their files, and the cells of a table that they fill."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .base_to_new import trained_elsewhere
from .records import RESULTS, read_records
from .resuming import POINTER

METRIC = 'accuracy/top1'
CLASS_MEANS = ('auc/mean', 'multi-label/mAP', 'accuracy/balanced')  # Metrics that may leave classes out.
LABELS = ('method', 'backbone', 'shot', 'protocol', 'config', 'split', 'seed')
MAJORITY_MARGIN = 0.1  # Points within which an accuracy counts as that of naming the largest class always.
SAME = 1e-9  # Up to which difference two values are one.


@dataclass(frozen=True)
class Result:
    """The value of a metric in one run.

    Attributes:
        labels: What rows are grouped by: method, backbone, shot, protocol, config, split, seed.
        dataset: Name of the test data.
        test: Name of its list, or None, and number of its images.
        value: The value, nan where it is not defined.
        at_majority: Whether it is an accuracy equal to the rate of the largest class.
        entry: The entry of the results file.
        file: The results file.
    """

    labels: Mapping[str, Any]
    dataset: str
    test: tuple[str | None, int]
    value: float
    at_majority: bool
    entry: Mapping[str, Any]
    file: Path

    def __str__(self) -> str:
        return (f'{self.value:.4f} in {self.file} ({self.entry["checkpoint"].get("name")}, '
                f'{self.entry["protocol"].get("at")}, {self.entry.get("config")})')


@dataclass
class Cell:
    """The runs of one row on one data set.

    Attributes:
        runs: What tells a run apart -> its results, which are one unless it was recorded more than once.
    """

    runs: dict[tuple, list[Result]] = field(default_factory=dict)

    @property
    def conflicts(self) -> list[list[Result]]:
        """The runs that have several values."""
        return [found for found in self.runs.values() if _spread(found) > SAME]

    @property
    def results(self) -> list[Result]:
        """All results of the cell."""
        return [result for found in self.runs.values() for result in found]

    @property
    def values(self) -> list[float]:
        """One value a run."""
        return [found[0].value for found in self.runs.values()]

    @property
    def mean(self) -> float:
        """The mean over runs; nan where there is a conflict."""
        return math.nan if self.conflicts else statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation over runs (n - 1); nan with less than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def at_majority(self) -> bool:
        """Whether a run is no better than naming one class always."""
        return any(result.at_majority for result in self.results)


def collect(folders: Sequence[str | Path], metric: str) -> tuple[list[Result], list[str]]:
    """Read the results below some folders.

    Args:
        folders: Folders, searched to any depth.
        metric: The metric.

    Returns:
        The results that have the metric, and notes on the others and on runs without results.

    Raises:
        FileNotFoundError: A folder does not exist, or there are no results.
        ValueError: A results file is broken or foreign, or no result has the metric.
    """
    places = [Path(folder) for folder in folders]
    for place in places:
        if not place.is_dir():
            raise FileNotFoundError(f'there is no folder {str(place)!r}')
    files = dict.fromkeys(path.resolve() for place in places for path in sorted(place.rglob(RESULTS)))
    entries = [(entry, file) for file in files for entry in read_records(file)]
    untested = [str(path.parent) for place in places for path in sorted(place.rglob(POINTER))
                if path.parent.resolve() / RESULTS not in files]
    if not entries:
        trained = f'; {len(untested)} trained runs wait there, such as {untested[0]}' if untested else ''
        raise FileNotFoundError(f'no {RESULTS} below {", ".join(map(str, places))}{trained}: test the checkpoints '
                                'first, with python tools/test.py CONFIG CHECKPOINT')
    having = [(entry, file) for entry, file in entries if metric in entry['metrics']]
    if not having:
        known = sorted({name for entry, _ in entries for name in entry['metrics']})
        raise ValueError(f'no result has the metric {metric!r}; there are {", ".join(known)}')
    notes = []
    if len(having) < len(entries):
        others = sorted({entry['dataset_name'] for entry, _ in entries if metric not in entry['metrics']})
        notes.append(f'Results without {metric}: {len(entries) - len(having)}, of {", ".join(others)}.')
    if untested:
        notes.append(f'Runs with checkpoints but no results: {", ".join(untested)}.')
    results = [_result(entry, file, metric) for entry, file in having]
    notes += dict.fromkeys(_left_out(result, metric) for result in results if _left_out(result, metric))
    undefined = [result for result in results if math.isnan(result.value)]
    notes += [f'{metric} is not defined in {result.file} ({result.dataset}).' for result in undefined]
    return [result for result in results if not math.isnan(result.value)], notes


def _result(entry: Mapping[str, Any], file: Path, metric: str) -> Result:
    value = entry['metrics'][metric]
    if isinstance(value, (list, dict, str)):
        raise ValueError(f'{metric} in {file} is not a number: {value}')
    value = math.nan if value is None or not math.isfinite(value) else float(value)
    protocol, test = entry['protocol'], entry['test']
    text = protocol['selection']
    elsewhere = trained_elsewhere(entry)
    if elsewhere:
        text += f', trained on {elsewhere}'
    cut = protocol.get('truncated')
    if cut:
        text += ', ranks cut to ' + ' '.join(f'{name} {value}' for name, value in cut.items() if value is not None)
    text += ', TTA' * bool(protocol.get('tta')) + ', AMP' * bool(protocol.get('amp'))
    rate = test.get('majority_rate')
    return Result(
        labels={**{name: entry.get(name) for name in LABELS}, 'protocol': text},
        dataset=entry['dataset_name'],
        test=(Path(test['list']).name if test.get('list') else None, test.get('images')),
        value=value,
        at_majority=metric == METRIC and rate is not None and abs(value - rate) <= MAJORITY_MARGIN,
        entry=entry,
        file=file,
    )


def _left_out(result: Result, metric: str) -> str | None:
    """Say how many classes have no value, where the metric is a mean over classes that counts them."""
    count = result.entry['metrics'].get(f'{metric.rpartition("/")[0]}/undefined_classes')
    if metric not in CLASS_MEANS or not count:
        return None
    return f'{metric} of {result.dataset}: {count} classes have no value; docs/results.md says what becomes of them.'


def _spread(results: Sequence[Result]) -> float:
    values = [result.value for result in results]
    return max(values) - min(values)
