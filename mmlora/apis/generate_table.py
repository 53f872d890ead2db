"""What the comparison of generated LoRAs shows: a table and a picture of paired differences."""

import os
import statistics
from collections.abc import Mapping
from pathlib import Path

from ..evaluation import paired_difference
from ..evaluation.prototypes import mean_and_interval
from ..io.atomic import write_atomically
from .quickstart_generate import FIRST_ROW, MEAN_ROW, Found

Table = Mapping[str, Mapping[str, Found]]
"""Title -> row -> what it reaches."""


def table(found: Table) -> str:
    """Return accuracies, differences to the mean LoRA and to no LoRA on the same tasks, with their 95 % intervals."""
    lines = []
    for title, rows in found.items():
        count = len(next(iter(rows.values())).accuracies)
        lines += ['', f'{title}: {count} tasks, accuracy, differences on the same tasks, and their 95 % intervals',
                  f'{"":<30}{"accuracy":>14}{"to no LoRA":>16}{"to mean LoRA":>16}{"novelty":>9}']
        for name, own in rows.items():
            cells = ['{:.1f} +- {:.1f}'.format(*mean_and_interval(own.accuracies))]
            for other in (FIRST_ROW, MEAN_ROW):
                there = name != other and other in rows
                cells.append('{:+.1f} +- {:.1f}'.format(*paired_difference(own.accuracies, rows[other].accuracies))
                             if there else '')
            novelty = f'{statistics.mean(own.novelty):.2f}' if own.novelty else ''
            lines.append(f'{name:<30}{cells[0]:>14}{cells[1]:>16}{cells[2]:>16}{novelty:>9}'.rstrip())
    return '\n'.join(lines[1:])


def draw_comparison(found: Table, path: str | os.PathLike) -> Path:
    """Draw the differences to the mean LoRA with their 95 % intervals, a panel for each kind of tasks.

    Args:
        found: Results, that of the mean LoRA among them.
        path: A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # its import is slow, and few processes draw
    from matplotlib.figure import Figure

    names = [name for name in next(iter(found.values())) if name != MEAN_ROW]
    figure = Figure(figsize=(4.2 * len(found) + 1.8, 1.3 + 0.32 * len(names)), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, (title, rows) in zip(figure.subplots(1, len(found), sharey=True, squeeze=False)[0], found.items(),
                                   strict=True):  # yapf: disable
        for place, name in enumerate(names):
            mean, half = paired_difference(rows[name].accuracies, rows[MEAN_ROW].accuracies)
            axes.errorbar(mean, place, xerr=half, fmt='o', capsize=3, color='C0' if mean - half > 0 else 'C7')
        axes.axvline(0, color='black', lw=0.8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xlabel('percentage points')
        axes.set_title(title, fontsize=10)
        axes.spines[['top', 'right']].set_visible(False)
    axes.invert_yaxis()
    figure.suptitle(f'Accuracy on held-out tasks, difference to the {MEAN_ROW}', fontsize=11)
    return write_atomically(path, lambda part: figure.savefig(part, format='png', dpi=150))
