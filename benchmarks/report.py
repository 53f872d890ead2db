"""Measurements as Markdown, with what they were made on."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from .core import Comparison, Growth, Row, Spread, exponent

PACKAGES = ('torch', 'mmengine', 'mmpretrain', 'numpy', 'peft')


def machine(device: torch.device) -> str:
    """Return one line about processor, threads, load and versions."""
    model = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        names = [line.split(':', 1)[1].strip() for line in info.read_text().splitlines() if line[:10] == 'model name']
        model = names[0] if names else model
    what = f'{os.cpu_count()} cores, {model}, {torch.get_num_threads()} threads'
    if device.type == 'cuda':
        what = f'{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}; {what}'
    return f'{what}; load {load()} at the start; Python {platform.python_version()}, {versions()}'


def load() -> str:
    """Return the mean number of running processes of the last minute, or that it is unknown."""
    return f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else 'unknown'


def versions() -> str:
    """Return the versions of what takes part; a package that is missing is said to be."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f'{name} {metadata.version(name)}')
        except metadata.PackageNotFoundError:
            found.append(f'no {name}')
    return ', '.join(found)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines) + '\n'


def mib(size: int | None) -> str:
    """Return bytes in MiB."""
    return '' if size is None else f'{size / 2**20:.1f}'


def ratio(spread: Spread) -> str:
    """Return the median of ratios with its quartiles."""
    return f'{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})'


def rate(what: Comparison, row: Row) -> list[str]:
    """Return the cell of the rate at the median of the times, or nothing where there is no such column."""
    if what.rate is None:
        return []
    value = 1000 * what.rate[1] / row.time.median
    return [f'{value:.0f}' if value >= 100 else f'{value:.3g}']


def comparison(what: Comparison, rows: Sequence[Row]) -> str:
    """Return the table of a comparison."""
    peaks = any(row.peak is not None for row in rows)
    kept = any(row.kept is not None for row in rows)
    facts = list(dict.fromkeys(name for row in rows for name in row.facts))
    header = ['', 'ms, median', *([what.rate[0]] if what.rate else []), f'ratio to {what.base}, median (quartiles)']
    header += ['kept for backward, MiB'] * kept + ['peak, MiB'] * peaks + ['difference', *facts]
    lines = []
    for row in rows:
        gap = 'other work' if row.difference is None else f'{row.difference:.0e}'
        gap = 'reference' if row.name == what.reference else gap
        cells = [row.name, f'{row.time.median:.1f}', *rate(what, row), ratio(row.ratio)]
        cells += [mib(row.kept)] * kept + [mib(row.peak)] * peaks + [gap]
        lines.append(cells + [row.facts.get(name, '') for name in facts])
    head = f'### {what.title}\n\n' + (f'{what.note}\n\n' if what.note else '')
    return head + table(header, lines)


def growth(what: Growth, measured: dict[int, tuple[Spread, int]]) -> str:
    """Return the table of a growth, with the exponents of the power laws that fit."""
    sizes = list(measured)
    times, kept = zip(*((time.median, size) for time, size in measured.values()), strict=True)
    rows = [[str(n), f'{t.median:.1f} ({t.low:.1f} to {t.high:.1f})', mib(size)] for n, (t, size) in measured.items()]
    rows.append(['exponent', f'{exponent(sizes, times):.2f}', f'{exponent(sizes, kept):.2f}' if all(kept) else ''])
    return f'### {what.title}\n\n' + table([what.parameter, 'ms, median (quartiles)', 'kept for backward, MiB'], rows)
