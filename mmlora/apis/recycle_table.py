"""What the comparison of tuning-free adaptation shows: a table and a picture of paired differences."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..evaluation import EpisodeScores
from ..evaluation.prototypes import mean_and_interval
from ..io.atomic import write_atomically

Found = Mapping[str, Mapping[str, Mapping[int, EpisodeScores]]]
"""Task -> method -> shots -> accuracies of the episodes. The first method is the one that others are compared with."""


def table(found: Found) -> str:
    """Return accuracies with their 95 % intervals, and differences to the first method on the same episodes."""
    lines = []
    for task, rows in found.items():
        first, scores = next(iter(rows.items()))
        episodes = next(iter(scores.values())).episodes
        lines += [
            '',
            f'{task}: {episodes["n_episodes"]} episodes of {episodes["n_way"]} classes, accuracy and its 95 % interval',
            f'(in brackets: difference to "{first}" on the same episodes)',
        ]
        lines.append(f'{"method":<28}' + ''.join(f'{f"{shot} shot":>32}' for shot in scores))
        for name, own in rows.items():
            cells = []
            for shot, value in own.items():
                mean, half = mean_and_interval(value.accuracies)
                cell = f'{mean:.1f} +- {half:.1f}'
                if name != first:
                    cell += ' ({:+.1f} +- {:.1f})'.format(*value.minus(rows[first][shot]))
                cells.append(f'{cell:>32}')
            lines.append(f'{name:<28}' + ''.join(cells))
    return '\n'.join(lines[1:])


def draw_comparison(found: Found, path: str | os.PathLike) -> Path:
    """Draw the differences to the first method with their 95 % intervals, a panel for each task, and return the file.

    Args:
        found: Results, of two methods at least.
        path: A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # its import is slow, and few processes draw
    from matplotlib.figure import Figure

    rows = next(iter(found.values()))
    first, *others = rows
    shots = list(rows[first])
    figure = Figure(figsize=(4.2 * len(found) + 1.6, 1.3 + 0.42 * len(others)), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    height = 0.8 / len(shots)
    for axes, (task, own) in zip(panels, found.items(), strict=True):
        for i, shot in enumerate(shots):
            differences = [own[name][shot].minus(own[first][shot]) for name in others]
            places = [y + (i - (len(shots) - 1) / 2) * height for y in range(len(others))]
            axes.barh(places, [mean for mean, _ in differences], height, xerr=[half for _, half in differences],
                      color=f'C{i}', label=f'{shot} shot' + 's' * (shot > 1), error_kw=dict(capsize=2, lw=1))
        axes.axvline(0, color='black', lw=0.8)
        axes.set_yticks(range(len(others)), others, fontsize=8)
        axes.set_xlabel('percentage points')
        axes.set_title(task, fontsize=10)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=8)
    figure.suptitle(f'Accuracy on new classes, difference to "{first}"', fontsize=11)
    return write_atomically(path, lambda part: figure.savefig(part, format='png', dpi=150))
