"""Exports of a rank table: CSV, a snippet for a config, and a bar chart."""

import csv
import io
import re
from typing import TYPE_CHECKING

from .table import RankRow, RankTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAIR = re.compile(r'^(?P<block>.*)\.(qkv|proj)$')


def table_to_csv(table: RankTable) -> str:
    """Return the rows of a table as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(RankRow.__dataclass_fields__), lineterminator='\n')
    writer.writeheader()
    writer.writerows(vars(row) for row in table.rows)
    return out.getvalue()


def table_to_snippet(table: RankTable) -> str:
    """Return ``lora_ranks = ...`` in the form that a config takes.

    Alternating qkv and proj give ``[[qkv, proj], ...]``, for Swin one list for each stage; anything else gives a
    mapping from module to rank, which every adapted backbone takes as well.
    """
    nested = _nest_pairs(table)
    if nested is not None:
        return f'lora_ranks = {nested}\n'
    lines = [f'    {module!r}: {rank!r},' for module, rank in table.ranks.items()]
    return '\n'.join(['lora_ranks = {', *lines, '}']) + '\n'


def _nest_pairs(table: RankTable) -> list | None:
    names, ranks = list(table.ranks), list(table.ranks.values())
    if len(names) % 2:
        return None
    pairs: dict[str, list] = {}
    for i in range(0, len(names), 2):
        first, second = _PAIR.match(names[i]), _PAIR.match(names[i + 1])
        if not first or not second or first['block'] != second['block'] or not names[i].endswith('qkv'):
            return None
        stage = re.match(r'^stages\.(\d+)\.', names[i])
        pairs.setdefault(stage[1] if stage else '', []).append([ranks[i], ranks[i + 1]])
    return pairs[''] if set(pairs) == {''} else list(pairs.values())


def table_to_figure(table: RankTable, title: str = 'Ranks') -> 'Figure':
    """Return a horizontal bar chart with a bar for each row, coloured by the last component of its name.

    Args:
        table: The ranks.
        title: The title; the criterion and the budget are added.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # its import is slow, and few processes draw
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = table.rows
    figure = Figure(figsize=(8, 0.9 + 0.24 * len(rows)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    groups = list(dict.fromkeys(row.label.rpartition('.')[2] for row in rows))
    for i, group in enumerate(groups):
        own = [(y, row.rank) for y, row in enumerate(rows) if row.label.rpartition('.')[2] == group]
        bars = axes.barh([y for y, _ in own], [r for _, r in own], color=f'C{i}', label=group)
        axes.bar_label(bars, padding=2, fontsize=7)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel('rank')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f'{title}: {_how(table)}', fontsize=10)
    if len(groups) > 1:
        figure.legend(fontsize=8, loc='outside right upper')
    axes.spines[['top', 'right']].set_visible(False)
    return figure


def _how(table: RankTable) -> str:
    """Return how ranks were chosen: ``stable_rank, budget mean_rank=16, r_max=64``."""
    criteria = ', '.join(sorted({row.criterion for row in table.rows}))
    limits = ', '.join(f'{name}={number}' for name, number in (table.budget or {}).items())
    return f'{criteria}, budget {limits}' if limits else criteria
