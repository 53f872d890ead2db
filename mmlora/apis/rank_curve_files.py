"""The rank-accuracy curve for people: as CSV, as text and as a picture."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine.dist import master_only

from ..io.atomic import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILES = ('rank_curve.csv', 'rank_curve.png')
PERCENT = ('accuracy/', 'auc/', 'episode/', 'kappa/', 'multi-label/', 'retrieval/', 'single-label/')
"""Prefixes of the metrics of mmpretrain and of this package, which are in percent but for the counts."""
COUNTS = ('support', 'undefined_classes')
MARKER = 3
"""Half the size of a marker, in points."""
PLACES = tuple((x, y) for y in (-11, 11, -21, 21) for x in (0, 9, -9, 18, -18))
"""Where the centre of a label may be, in points from its marker."""
COLORS = {'rank': 'C0', 'fraction': 'C1', 'full': 'black'}


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation.

    Attributes:
        kind: ``'rank'``, ``'fraction'`` or ``'full'``.
        value: The rank, or the fraction of each layer's rank; None at full rank.
        active_parameters: Learned parameters of the adapters in use.
        metrics: What the evaluator of the config says.
    """

    kind: str
    value: float | None
    active_parameters: int
    metrics: dict[str, float]

    @property
    def label(self) -> str:
        """What a reader calls the point: ``4``, ``0.25 r`` or ``full``."""
        return {'rank': f'{self.value}', 'fraction': f'{(self.value or 0):.3g} r', 'full': 'full'}[self.kind]


def describe_point(kind: str, value: float | None) -> str:
    """Return ``rank 4``, ``fraction 0.25 of each rank`` or ``full rank``."""
    return {'rank': f'rank {value}', 'fraction': f'fraction {value} of each rank', 'full': 'full rank'}[kind]


def describe_scaling(rescale: bool) -> str:
    """Return how the changes were scaled at the lower ranks."""
    return 'scaling by rule' if rescale else 'scaling of the full rank kept'


@master_only
def write_curve(
    points: Sequence[CurvePoint], folder: str | Path, data: str, title: str, rescale: bool = True
) -> list[Path]:
    """Write ``rank_curve.csv`` and ``rank_curve.png`` and return their paths.

    Args:
        points: The curve; the last point is that of the full rank.
        folder: Where they go.
        data: What was evaluated on, for the CSV.
        title: The title of the picture; the scaling is added.
        rescale: How the changes were scaled.
    """
    figure = curve_to_figure(points, f'{title}\n{describe_scaling(rescale)}')
    table, image = (Path(folder) / name for name in FILES)
    return [
        write_text(table, curve_to_csv(points, data, rescale)),
        write_atomically(image, lambda file: figure.savefig(file, format='png', dpi=120)),
    ]


def curve_to_csv(points: Sequence[CurvePoint], data: str, rescale: bool = True) -> str:
    """Return the points as CSV with a header; after ``active_parameters`` there is a column for each metric.

    Args:
        points: The curve.
        data: What was evaluated on.
        rescale: Whether the scaling followed its rule at the lower ranks.
    """
    out = io.StringIO()
    columns = ['data', 'scaling', 'kind', 'value', 'active_parameters', *_metrics(points)]
    writer = csv.DictWriter(out, columns, lineterminator='\n')
    writer.writeheader()
    for point in points:
        writer.writerow(
            {
                'data': data,
                'scaling': 'by rule' if rescale else 'full rank',
                'kind': point.kind,
                'value': point.value,
                'active_parameters': point.active_parameters,
                **point.metrics,
            }
        )
    return out.getvalue()


def curve_to_text(points: Sequence[CurvePoint]) -> str:
    """Return the points as a table for the console, numbers with two decimals."""
    names = _numbers(points)
    lines = [f'{"rank":>8}  {"parameters":>12}' + ''.join(f'  {name:>14}' for name in names)]
    for point in points:
        values = ''.join(f'  {point.metrics[name]:>{max(14, len(name))}.2f}' for name in names)
        lines.append(f'{point.label:>8}  {point.active_parameters:>12,}{values}')
    return '\n'.join(lines)


def _metrics(points: Sequence[CurvePoint]) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point.metrics))


def _numbers(points: Sequence[CurvePoint]) -> list[str]:
    return [name for name, value in points[-1].metrics.items() if isinstance(value, int | float)]


def curve_to_figure(points: Sequence[CurvePoint], title: str) -> 'Figure':
    """Return a panel for each metric over the active adapter parameters; the full rank is a horizontal line.

    Args:
        points: The curve; the last point is that of the full rank.
        title: The title.

    Raises:
        ValueError: No metric is a number.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # its import is slow, and few processes draw
    from matplotlib.figure import Figure

    names = _numbers(points)
    if not names:
        raise ValueError(f'there is no number among the metrics {sorted(points[-1].metrics)} to draw')
    figure = Figure(figsize=(1.2 + 4.8 * len(names), 4), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    panels = list(zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True))
    for axes, name in panels:
        _draw(axes, points, name)
    figure.draw_without_rendering()  # The places of labels are known only when the layout is.
    for axes, name in panels:
        _label(axes, points, name)
    return figure


def _draw(axes: 'Axes', points: Sequence[CurvePoint], name: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.axhline(points[-1].metrics[name], color='0.7', linewidth=1, zorder=0)
    for kind in ('rank', 'fraction'):
        own = sorted((p for p in points if p.kind in (kind, 'full')), key=lambda p: p.active_parameters)
        if len(own) > 1:
            places = [p.active_parameters for p in own], [p.metrics[name] for p in own]
            # Not clipped, since a marker at 100 % lies half outside.
            axes.plot(*places, 'o-', color=COLORS[kind], markersize=2 * MARKER, label=kind, clip_on=False)
    axes.set_xscale('log', base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('active adapter parameters')
    axes.margins(x=0.08, y=0.12)
    percent = name.startswith(PERCENT) and not any(count in name for count in COUNTS)
    axes.set_ylabel(f'{name}, %' if percent else name)
    if percent:
        axes.set_ylim(top=min(axes.get_ylim()[1], 100))
    axes.spines[['top', 'right']].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, frameon=False)


def _label(axes: 'Axes', points: Sequence[CurvePoint], name: str) -> None:
    """Name each point where its label hides no marker, no other label and little of the lines, near its marker."""
    from matplotlib.transforms import Bbox

    figure = axes.figure
    points = [point for point in points if np.isfinite(point.metrics[name])]
    if not points:
        return
    places = np.array([(p.active_parameters, p.metrics[name]) for p in points], dtype=float)
    markers = axes.transData.transform(places)
    half = MARKER * figure.dpi / 72
    taken = [Bbox([place - half, place + half]) for place in markers]
    others = [*figure.texts, *([axes.get_legend()] if axes.get_legend() else [])]  # The title is one of the texts.
    taken += [other.get_window_extent() for other in others]
    lines = np.concatenate([_along(line.get_transform().transform(line.get_xydata())) for line in axes.lines])
    for point, place in zip(points, places, strict=True):
        note = axes.annotate(point.label, place, xytext=PLACES[0], textcoords='offset points', fontsize=8,
                             ha='center', va='center', color=COLORS[point.kind])
        note.set_in_layout(False)  # A label must not move what the others were placed by.
        costs = []
        for offset in PLACES:
            note.set_position(offset)
            box = note.get_window_extent().padded(6, 3)
            hidden = sum(box.overlaps(other) for other in taken)
            outside = not (figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1))
            below = box.y0 < axes.bbox.y0
            inside = ((lines > box.min) & (lines < box.max)).all(axis=1).sum()
            costs.append(1000 * (hidden + outside + below) + 3 * inside + np.hypot(*offset))
        note.set_position(PLACES[int(np.argmin(costs))])
        taken.append(note.get_window_extent())


def _along(corners: np.ndarray) -> np.ndarray:
    """Return points two pixels apart along a polyline of shape (N, 2), where it is drawn."""
    corners = corners[np.isfinite(corners).all(axis=1)]
    if len(corners) < 2:
        return corners
    pairs = zip(corners[:-1], corners[1:], strict=True)
    return np.concatenate([np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 2)) for a, b in pairs])
