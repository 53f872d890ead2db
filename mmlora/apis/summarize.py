"""Means and deviations over the results of many runs: what ``tools/summarize.py`` prints.

Only runs that differ in split and seed are averaged. Runs of another protocol (how the checkpoint was selected) get a
row of their own, tests on other images a column of their own, and two values for one run are a conflict, which is
shown and not averaged.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets import VTAB_SETS
from .collected import LABELS, METRIC, Cell, Result, collect
from .vtab_means import vtab_set_of

BY = ('method', 'backbone', 'shot', 'protocol')
RUN = ('split', 'seed')  # What tells apart the runs that are averaged.
ALIKE = ('config', 'trainable_parameters')  # What they should have in common.


@dataclass(frozen=True)
class Summary:
    """A table of results.

    Attributes:
        metric: The metric.
        by: The labels of a row.
        rows: Values of these labels -> column -> cell.
        columns: Data set, and where it was tested on several lists or numbers of images, these.
        results: All results, one for each entry that has the metric.
        notes: What a reader must know about the numbers.
    """

    metric: str
    by: tuple[str, ...]
    rows: dict[tuple, dict[str, Cell]]
    columns: list[str]
    results: list[Result]
    notes: list[str]


def summarize(folders: Sequence[str | Path], metric: str = METRIC, by: Sequence[str] = BY) -> Summary:
    """Collect the results below some folders and average them over splits and seeds.

    Args:
        folders: Folders of runs, searched to any depth.
        metric: The metric, as tests print it.
        by: Which results share a row; ``protocol`` is added where it is not among them.

    Returns:
        The table.

    Raises:
        FileNotFoundError: A folder does not exist, or there are no results.
        ValueError: A results file is broken or foreign, no result has the metric, or ``by`` is unknown.
    """
    by = tuple(dict.fromkeys([*(name.strip() for name in by), 'protocol']))
    unknown = [name for name in by if name not in LABELS]
    if unknown:
        raise ValueError(f'rows cannot be grouped by {", ".join(unknown)}; choose from {", ".join(LABELS)}')
    results, notes = collect(folders, metric)
    names = _column_names(results)
    rows: dict[tuple, dict[str, Cell]] = {}
    merged = tuple(name for name in BY if name not in by)
    for result in sorted(results, key=lambda r: _order(r, by)):
        row = rows.setdefault(tuple(result.labels[name] for name in by), {})
        cell = row.setdefault(names[result.dataset, result.test], Cell())
        cell.runs.setdefault(tuple(result.labels[name] for name in (*RUN, *merged)), []).append(result)
    columns = list(dict.fromkeys(names[key] for key in sorted(names, key=_column_order)))
    notes += _notes(rows, results, merged, by)
    return Summary(metric, by, rows, columns, results, notes)


def _column_names(results: Sequence[Result]) -> dict[tuple[str, tuple], str]:
    """Return data set and test list -> name of the column, with the list where a data set has several."""
    tests: dict[str, set] = {}
    for result in results:
        tests.setdefault(result.dataset, set()).add(result.test)
    return {(dataset, test): dataset if len(of) == 1 else f'{dataset} ({test[0] or "no list"}, {test[1]} images)'
            for dataset, of in tests.items() for test in of}


def _column_order(key: tuple[str, tuple]) -> tuple:
    dataset, test = key
    vtab_set = vtab_set_of(dataset)
    place = list(VTAB_SETS).index(vtab_set.name) if vtab_set else -1
    return (vtab_set is None, place, dataset, str(test[0]), test[1])


def _order(result: Result, by: Sequence[str]) -> tuple:
    """Sort numbers by size, before text, before nothing."""
    values = (result.labels[name] for name in (*by, *RUN))
    return tuple((0, v, '') if isinstance(v, int) else (1 + (v is None), 0, str(v)) for v in values)


def _notes(rows: Mapping, results: Sequence[Result], merged: Sequence[str], by: Sequence[str]) -> list[str]:
    notes = []
    for (labels, row), name in itertools.product(rows.items(), merged):
        seen = {str(result.labels[name]) for cell in row.values() for result in cell.results}
        if len(seen) > 1:
            notes.append(f'Row {_say(labels)} averages over {name}: {", ".join(sorted(seen))}.')
    for labels, row in rows.items():
        for column, cell in row.items():
            for found in cell.conflicts:
                notes.append(f'Conflict in {_say(labels)} on {column}: one run has several values: '
                             + '; '.join(map(str, found)) + '. Remove the wrong one, or tell the runs apart by method '
                             'in the config or by --by config.')
            for name in ALIKE:
                seen = sorted({str(result.entry.get(name)) for result in cell.results})
                if len(seen) > 1:
                    notes.append(f'{_say(labels)} on {column} averages runs of different {name}: {", ".join(seen)}.')
            lengths = {str(result.entry['protocol'].get('at')) for result in cell.results}
            if len(lengths) > 1 and all(str(r.labels['protocol']).startswith('last ') for r in cell.results):
                notes.append(f'Runs of {_say(labels)} on {column} are of unequal length: {", ".join(sorted(lengths))}.')
            for found in cell.runs.values():
                if len(found) > 1 and found not in cell.conflicts:
                    notes.append(f'{found[0].file} and {found[-1].file} hold one value of {_say(labels)} on {column} '
                                 'for one run: it counts once.')
    for dataset, images in dict.fromkeys((r.dataset, r.test[1]) for r in results):
        vtab_set = vtab_set_of(dataset)
        if vtab_set and vtab_set.test_images != images:
            notes.append(f'{dataset} was tested on {images} images, where the test list of VTAB-1k has '
                         f'{vtab_set.test_images}: no part of a VTAB-1k mean.')
    return notes


def _say(labels: Sequence[Any]) -> str:
    return ' / '.join(str(label) for label in labels)
