"""Summaries as text: Markdown for a paper or a README, CSV for other programs."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..datasets import VTAB_SETS
from ..engine.protocol import NOT_TRAINED
from .base_to_new import base_to_new
from .collected import MAJORITY_MARGIN, Cell
from .coop_means import coop_means
from .summarize import Summary
from .vtab_means import vtab_means, vtab_set_of

NOTHING = '–'
CSV_COLUMNS = (
    'method', 'dataset_name', 'trained_on', 'backbone', 'shot', 'split', 'seed', 'protocol', 'at', 'on_test', 'tta',
    'amp', 'metric', 'value', 'majority_rate', 'at_majority_rate', 'test_list', 'test_images', 'trainable_parameters',
    'config', 'checkpoint', 'sha256', 'version', 'date', 'file',
)  # yapf: disable


def to_markdown(summary: Summary) -> str:
    """Return a summary as Markdown: one row for each group, one column for each data set, the means of VTAB-1k, notes.

    Args:
        summary: The summary.
    """
    lines = [f'{summary.metric}: mean ± standard deviation (n - 1) over splits and seeds, in brackets the number of '
             'runs.', '']
    rows = [[*_labels(summary.by, labels), *(_cell(row.get(column)) for column in summary.columns)]
            for labels, row in summary.rows.items()]
    lines += _table([*summary.by, *summary.columns], rows)
    if any(vtab_set_of(result.dataset) for result in summary.results):
        lines += ['', 'VTAB-1k:', '', *_vtab_table(summary)]
    lines += _coop_table(summary)
    lines += _base_to_new_table(summary)
    notes = [*_footnotes(summary), *summary.notes]
    return '\n'.join([*lines, *(['', *(f'- {note}' for note in notes)] if notes else [])]) + '\n'


def to_csv(summary: Summary) -> str:
    """Return the results of a summary as CSV, one line for each recorded value, not averaged.

    Args:
        summary: The summary.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator='\n')
    writer.writeheader()
    for result in summary.results:
        entry, test, protocol = result.entry, result.entry['test'], result.entry['protocol']
        values = dict(
            entry,
            **{name: protocol.get(name) for name in ('at', 'on_test', 'tta', 'amp')},
            metric=summary.metric,
            value=result.value,
            majority_rate=test.get('majority_rate'),
            at_majority_rate=result.at_majority,
            test_list=test.get('list'),
            test_images=test.get('images'),
            sha256=entry['checkpoint'].get('sha256'),
            file=str(result.file),
        )
        values.update(protocol=result.labels['protocol'], checkpoint=entry['checkpoint'].get('name'))
        writer.writerow({name: values.get(name) for name in CSV_COLUMNS})
    return text.getvalue()


FORMATS: dict[str, Callable[[Summary], str]] = {'markdown': to_markdown, 'csv': to_csv}


def _vtab_table(summary: Summary) -> list[str]:
    rows = []
    for labels, row in summary.rows.items():
        means = vtab_means(row)
        if means is None:
            continue
        counts = sorted({len(cell.runs) for cell in means.cells.values()})
        runs = NOTHING if not counts else ' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        groups = [f'{group.there} of {group.wanted} sets' if math.isnan(group.mean) else f'{group.mean:.2f}'
                  for group in means.groups.values()]
        over = [NOTHING if math.isnan(mean) else f'{mean:.2f}' for mean in (means.over_groups, means.over_sets)]
        rows.append([*_labels(summary.by, labels), f'{len(means.cells)} of {len(VTAB_SETS)}', runs, *groups, *over])
    header = ['sets', 'runs of a set', *dict.fromkeys(vtab_set.group for vtab_set in VTAB_SETS.values()),
              'mean of groups', f'mean of {len(VTAB_SETS)} sets']
    return _table([*summary.by, *header], rows)


def _coop_table(summary: Summary) -> list[str]:
    rows = []
    for labels, row in summary.rows.items():
        for mean in coop_means(row):
            counts = sorted({len(cell.runs) for cell in mean.cells.values()})
            runs = ' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))
            rows.append([*_labels(summary.by, labels), f'{len(mean.cells)} of {mean.group}', runs, f'{mean.mean:.2f}'])
    if not rows:
        return []
    return ['', "Means over CoOp's sets, of those that are there:", '',
            *_table([*summary.by, 'sets', 'runs of a set', 'mean'], rows)]


def _base_to_new_table(summary: Summary) -> list[str]:
    rows = []
    for labels, row in summary.rows.items():
        found = base_to_new(row)
        rows += [[*_labels(summary.by, labels), name, *(f'{value:.2f}' for value in pair)]
                 for name, pair in found.items()]
    if not rows:
        return []
    return ['', 'From base to new classes, by the means of the runs:', '',
            *_table([*summary.by, 'data', 'base', 'new', 'harmonic mean'], rows)]


def _footnotes(summary: Summary) -> list[str]:
    notes = []
    if any(result.entry['protocol'].get('on_test') for result in summary.results):
        notes.append('**TEST DATA**: the checkpoint was chosen on the images that it is measured on. Such a number is '
                     'an upper bound, and does not compare with the other rows.')
    unsaid = {result.entry['protocol']['selection'] for result in summary.results
              if result.entry['protocol'].get('on_test') is None}
    if NOT_TRAINED in unsaid:
        notes.append(f'{NOT_TRAINED}: plain weights, without a record of any training run.')
    if unsaid - {NOT_TRAINED}:
        notes.append('unknown: the checkpoint does not say how it was selected.')
    marked = [result for result in summary.results if result.at_majority]
    if marked:
        rates = {r.dataset: f'{r.entry["test"]["majority_rate"]:.2f}' for r in marked}
        notes.append(f'† a run is within {MAJORITY_MARGIN} points of what naming the largest class always gives: '
                     + ', '.join(f'{name} {rate}' for name, rate in rates.items()) + '.')
    return notes


def _labels(by: Sequence[str], labels: Sequence[Any]) -> list[str]:
    texts = (NOTHING if label is None else str(label) for label in labels)
    return [f'**{text}**' if name == 'protocol' and 'TEST DATA' in text else text
            for name, text in zip(by, texts, strict=True)]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    if cell.conflicts:
        return 'conflict'
    spread = '' if math.isnan(cell.deviation) else f' ± {cell.deviation:.2f}'
    return f'{cell.mean:.2f}{spread} ({len(cell.runs)})' + '†' * cell.at_majority


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return '| ' + ' | '.join(text.replace('|', '\\|') for text in texts) + ' |'

    return [line(header), '|' + '---|' * len(header), *(line(row) for row in rows)]
