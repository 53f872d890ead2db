"""Charts as inline SVG, drawn by hand: no script, no font, no picture from elsewhere.

Colours are those of the page's style sheet (classes ``c0`` to ``c5``), so that a chart follows its light and dark
scheme. Texts are escaped by ``Markup.format``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from markupsafe import Markup

COLOURS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 14, 12, 48
_WIDTH, _HEIGHT = 640, 280
_MARKED = 60  # Points up to which each is marked.


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: What it shows, with the unit.
        low: The least value.
        high: The greatest one.
        start: The coordinate of ``low``, in pixels.
        end: That of ``high``.
    """

    label: str
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the coordinate of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers between two, about so many: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def say_number(value: float) -> str:
    """Return a number for people: ``1500``, ``0.25``, ``3e-05``."""
    return f'{value:.0f}' if value == round(value) and abs(value) < 1e6 else f'{value:.4g}'


def line_chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> Markup:
    """Draw curves with a legend.

    Args:
        title: What they show.
        series: Points of each curve, by its name; at least one point in all.
        x_label: What goes to the right.
        y_label: What goes upwards.
    """
    points = [point for curve in series.values() for point in curve]
    x_axis = Axis(x_label, *_span([x for x, _ in points], 0.0), _LEFT, _WIDTH - _RIGHT)
    y_axis = Axis(y_label, *_span([y for _, y in points], 0.06), _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(x_axis, y_axis)]
    for number, curve in enumerate(series.values()):
        colour = number % COLOURS
        path = ' '.join(f'{x_axis.at(x)},{y_axis.at(y)}' for x, y in curve)
        parts.append(Markup('<polyline class="line c{}" points="{}"/>').format(colour, path))
        if len(curve) <= _MARKED:
            parts += [
                Markup('<circle class="dot c{}" cx="{}" cy="{}" r="3"><title>{}: {}</title></circle>').format(
                    colour, x_axis.at(x), y_axis.at(y), say_number(x), say_number(y)) for x, y in curve]
    last = ', '.join(f'{name} ends at {say_number(curve[-1][1])}' for name, curve in islice(series.items(), 4) if curve)
    return figure(title, list(series), parts, f'{title}. {last}.')


def bar_chart(
    title: str, groups: Mapping[str, Mapping[str, float]], x_label: str, y_label: str, hints: Mapping[str, str]
) -> Markup:
    """Draw bars side by side in groups.

    Args:
        title: What they show.
        groups: Values of each group by kind, at least 0.
        x_label: What a group is.
        y_label: What is counted.
        hints: Text of a bar for the pointer, by ``'group kind'``.
    """
    kinds = list(dict.fromkeys(kind for group in groups.values() for kind in group))
    count = sum(len(group) for group in groups.values())
    gap, wide = 10.0, 14.0
    width = max(_WIDTH, _LEFT + _RIGHT + count * wide + gap * (len(groups) + 1))
    wide = min((width - _LEFT - _RIGHT - gap * (len(groups) + 1)) / count, 40)
    gap = (width - _LEFT - _RIGHT - count * wide) / (len(groups) + 1)
    top = max(value for group in groups.values() for value in group.values())
    y_axis = Axis(y_label, 0.0, (top or 1) * 1.1, _HEIGHT - _BOTTOM, _TOP)
    parts, left = [_frame(Axis(x_label, 0, 1, _LEFT, width - _RIGHT), y_axis, False)], _LEFT + gap
    for name, group in groups.items():
        begin = left
        for kind, value in group.items():
            y = y_axis.at(value)
            parts.append(Markup('<rect class="bar c{}" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}">'
                                '<title>{}</title></rect>').format(
                kinds.index(kind) % COLOURS, left, y, wide - 1.5, y_axis.start - y, hints[f'{name} {kind}']))
            if wide >= 13:
                parts.append(_text((left + wide / 2 - 1, y - 4), say_number(value), 'small middle'))
            left += wide
        parts.append(_text(((begin + left) / 2, _HEIGHT - _BOTTOM + 18), name, 'tick middle'))
        left += gap
    return figure(title, kinds, parts, f'{title}. {len(groups)} groups of {", ".join(kinds)}.', width)


def histogram(title: str, values: Sequence[float], mean: float, interval: float, x_label: str, y_label: str) -> Markup:
    """Draw a histogram with the mean and its 95 % interval.

    Args:
        title: What it shows.
        values: At least one.
        mean: Their mean.
        interval: Half width of the interval.
        x_label: What a value is, with the unit.
        y_label: What is counted.
    """
    low, high = _span(values, 0.02)
    counts, edges = np.histogram(values, bins=min(24, max(6, round(math.sqrt(len(values))))), range=(low, high))
    x_axis = Axis(x_label, low, high, _LEFT, _WIDTH - _RIGHT)
    y_axis = Axis(y_label, 0.0, float(counts.max()) * 1.1, _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(x_axis, y_axis)]
    for count, begin, end in zip(counts, edges[:-1], edges[1:], strict=True):
        hint = f'{count} from {say_number(begin)} to {say_number(end)}'
        parts.append(Markup('<rect class="bar c0" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"><title>{}</title>'
                            '</rect>').format(x_axis.at(begin) + 0.5, y_axis.at(count), x_axis.at(end) -
                                              x_axis.at(begin) - 1, y_axis.start - y_axis.at(count), hint))
    x, left, right = (x_axis.at(min(max(v, low), high)) for v in (mean, mean - interval, mean + interval))
    parts.append(Markup('<rect class="band" x="{}" y="{}" width="{:.2f}" height="{}"/>').format(
        left, _TOP, max(right - left, 1), _HEIGHT - _TOP - _BOTTOM))
    parts.append(Markup('<line class="mean" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
        x, _TOP, _HEIGHT - _BOTTOM))
    return figure(title, [], parts, f'{title}: {len(values)} values, mean {mean:.2f} ± {interval:.2f}.')


def heat_map(title: str, counts: np.ndarray, names: Sequence[str]) -> Markup:
    """Draw a confusion matrix: right classes downwards, chosen ones to the right, each row shaded by its parts.

    Args:
        title: What it shows.
        counts: ``(C, C)`` whole numbers.
        names: Of the classes.
    """
    size = len(counts)
    cell = 34 if size <= 15 else 16
    short = [name if len(name) <= 18 else f'{name[:17]}…' for name in names]
    left = top = 16 + 7 * max(map(len, short))
    sums, parts = counts.sum(1), []
    for row in range(size):
        parts.append(_text((left - 6, top + (row + 0.5) * cell + 4), short[row], 'tick end'))
        x, y = left + (row + 0.5) * cell + 4, top - 6
        parts.append(Markup('<text class="tick" transform="translate({:.1f} {:.1f}) rotate(-90)">{}</text>').format(
            x, y, short[row]))
        for column in np.flatnonzero(counts[row]):
            share = counts[row, column] / sums[row]
            at = (left + int(column) * cell, top + row * cell)
            parts.append(Markup('<rect class="cell {}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.3f}">'
                                '<title>{} taken for {}: {} of {}</title></rect>').format(
                'right' if row == column else 'wrong', *at, cell - 1, cell - 1, 0.08 + 0.92 * share, names[row],
                names[column], counts[row, column], sums[row]))
            if size <= 15:
                place = (at[0] + cell / 2, at[1] + cell / 2 + 4)
                parts.append(_text(place, str(counts[row, column]), f'middle {"on" if share > 0.55 else "off"}'))
    parts.append(Markup('<rect class="edge" x="{}" y="{}" width="{}" height="{}"/>').format(
        left - 0.5, top - 0.5, size * cell, size * cell))
    whole = left + size * cell + 8
    about = (f'{title}: rows are the right classes, columns the chosen ones; {int(counts.trace())} of {counts.sum()} '
             'right.')
    return figure(title, [], parts, about, whole, top + size * cell + 8, natural=True)


def figure(
    title: str, legend: Sequence[str], parts: Sequence[Markup], about: str, width: float = _WIDTH,
    height: float = _HEIGHT, natural: bool = False,
) -> Markup:
    """Return a figure of SVG parts with caption and legend.

    Args:
        title: The caption.
        legend: Names of the series, in the order of their colours; one alone needs no legend.
        parts: Content of the SVG.
        about: What it shows, for those who do not see it.
        width: Of the drawing.
        height: Of the drawing.
        natural: Whether it is not stretched to the width of the page.
    """
    keys = [Markup('<li><span class="key c{}"></span>{}</li>').format(i % COLOURS, name)
            for i, name in enumerate(legend)] if len(legend) > 1 else []
    style = f'width:{width:.0f}px;max-width:none' if natural or width > _WIDTH else ''
    return Markup('<figure><figcaption>{}</figcaption>{}<div class="scroll"><svg viewBox="0 0 {:.0f} {:.0f}" '
                  'role="img" aria-label="{}" style="{}"><title>{}</title>{}</svg></div></figure>').format(
        title, Markup('<ul class="legend">{}</ul>').format(Markup('').join(keys)) if keys else '', width, height,
        about, style, about, Markup('').join(parts))


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    # Differences that are noise of the arithmetic, and those without room for a tick between.
    if high - low <= 1e-12 * max(abs(low), abs(high)) or high - low < 1e-300:
        return low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    room = (high - low) * margin
    return low - room, high + room


def _text(at: tuple[float, float], text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, *at, text)


def _frame(x_axis: Axis, y_axis: Axis, numbers: bool = True) -> Markup:
    """Return grid, numbers and labels of the axes."""
    parts, bottom = [], y_axis.start
    for value in ticks(y_axis.low, y_axis.high):
        y = y_axis.at(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            x_axis.start, x_axis.end, y, y))
        parts.append(_text((x_axis.start - 6, y + 4), say_number(value), 'tick end'))
    for value in ticks(x_axis.low, x_axis.high, 7) if numbers else []:
        parts.append(_text((x_axis.at(value), bottom + 18), say_number(value), 'tick middle'))
    parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        x_axis.start, x_axis.end, bottom, bottom))
    parts.append(_text(((x_axis.start + x_axis.end) / 2, bottom + 40), x_axis.label, 'label middle'))
    parts.append(Markup('<text class="label middle" transform="translate(16 {:.1f}) rotate(-90)">{}</text>').format(
        (y_axis.start + y_axis.end) / 2, y_axis.label))
    return Markup('').join(parts)
