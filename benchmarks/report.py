"""Measurements as Markdown, with what they were made on."""

import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from mmlora._requirements import install_extra

from .core import Comparison, Growth, Row, Spread, exponent
from .targets import Outcome

PACKAGES = ('torch', 'mmengine', 'mmpretrain', 'numpy', 'peft', 'timm', 'loralib', 'open_clip_torch')

HOW_TO_READ = """
One command measures this package beside others that do the same work, from the top of the repository:

```bash
python -m benchmarks                                        # all suites
python -m benchmarks --suite attention text --out tables.md
python -m benchmarks --suite attention --device cuda
OMP_NUM_THREADS=1 python -m benchmarks --clock cpu          # on a machine that others use too
```

This page is its output. Peers are used where they are installed: the extra `bench` brings them. Naive forms are
written in the suite. Before anything is timed (or after, of the timed runs themselves, where a run is long), the
outputs and the gradients of all ways are compared with a reference, relative to its largest entry; ways that differ
get no ratio but an error, and the command ends with 1. Under dropout, whose masks each way draws in its own manner,
they are compared without; what is timed draws. "Other work" in the column of differences marks what computes something
else by intent, such as frozen layers as a floor, and is compared with nothing.

Every case runs once in each round, each round beginning with another one; a ratio is taken within a round, and the
tables give the median and the quartiles, or one number where a run is so long that there is one round. `--clock cpu`
counts the time of the processor instead of that on the wall: the load of other programs then changes it through shared
caches and memory alone. "Kept for backward" is what autograd saves for the backward pass, each storage once, without
input, parameters and frozen tensors. "Peak" is the most that PyTorch hands out at a time during a run beyond what was
there before: on a GPU its allocator counts it, on a CPU its profiler, in a run that is not timed; what NumPy and the
libraries of matrix products take for themselves is not in it. The exponent e of a growth fits `cost ~ size ** e`.
Targets are aims of this project, and their numbers its own choice; the text of a suite says what they rest on. A
target is judged by the median. `--quick` runs small sizes, to see that everything works: its times and targets say
nothing.
"""


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
    """Return the median of ratios with its quartiles; alone where all ratios are the same, as those of one round."""
    if spread.low == spread.high:
        return f'{spread.median:.2f}'
    return f'{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})'


def rate(what: Comparison, row: Row) -> list[str]:
    """Return the cell of the rate at the median of the times, or nothing where there is no such column."""
    if what.rate is None:
        return []
    value = 1000 * what.rate[1] / row.time.median
    return [f'{value:.0f}' if value >= 100 else f'{value:.3g}']


def missing(absent: Mapping[str, str]) -> str:
    """Return a line for each case whose package is not installed."""
    lines = [f'No row of *{case}*: {name} is not installed: {install_extra("bench")}.' for case, name in absent.items()]
    return ''.join(f'\n{line}\n' for line in lines)


def comparison(what: Comparison, rows: Sequence[Row], found: Sequence[Outcome] = ()) -> str:
    """Return the table of a comparison, what is missing in it, and its targets."""
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
    goals = ''.join(f'\nTarget: {one.target}: {one}.\n' for one in found)
    return heading(what) + table(header, lines) + missing(what.absent) + goals


def heading(what: Comparison) -> str:
    """Return the headline of a comparison with its note."""
    return f'### {what.title}\n\n' + (f'{what.note}\n\n' if what.note else '')


def disagreement(what: Comparison, error: str, found: Sequence[Outcome]) -> str:
    """Return what stands in the place of a table whose ways disagree."""
    goals = ''.join(f'\nTarget: {one.target}: {one}.\n' for one in found)
    return f'{heading(what)}No times: {error}.\n{goals}'


def growth(what: Growth, measured: dict[int, tuple[Spread, int, int | None]]) -> str:
    """Return the table of a growth, with the exponents of the power laws that fit."""
    sizes = list(measured)
    times, kept, peaks = zip(*((time.median, size, peak) for time, size, peak in measured.values()), strict=True)
    spans = [f'{time.median:.1f} ({time.low:.1f} to {time.high:.1f})' for time, *_ in measured.values()]
    columns = {
        'ms, median (quartiles)': (times, spans),
        'kept for backward, MiB': (kept, [mib(size) for size in kept]),
        'peak, MiB': (peaks, [mib(size) for size in peaks]),
    }
    shown = {name: column for name, column in columns.items() if any(column[0])}
    rows = [[str(size), *(cells[i] for _, cells in shown.values())] for i, size in enumerate(sizes)]
    fits = [f'{exponent(sizes, values):.2f}' if all(values) else '' for values, _ in shown.values()]
    return f'### {what.title}\n\n' + table([what.parameter, *shown], [*rows, ['exponent', *fits]])


def head(command: str, device: torch.device, clock: str) -> str:
    """Return the beginning of the page: the command, the machine, and how to read what follows."""
    return f'# Benchmarks\n\n`{command}`: {machine(device)}; {clock} time.\n{HOW_TO_READ}'


def about(name: str, text: str) -> str:
    """Return the headline of a suite and what it compares."""
    return f'## {name}\n\n{textwrap.dedent(text).strip()}\n'


def summary(found: Mapping[str, Sequence[Outcome]], seconds: Mapping[str, float]) -> str:
    """Return the end of the page: all targets by suite, how long each suite took, and the load of the machine."""
    rows = [[name, one.title, str(one.target), str(one)] for name, own in found.items() for one in own]
    took = ', '.join(f'{name} {value:.0f} s' for name, value in seconds.items())
    parts = ['## Targets\n', table(['suite', 'where', 'target', 'found'], rows)] if rows else []
    parts.append(f'Seconds on the wall: {took}; {sum(seconds.values()):.0f} s together; load {load()} at the end.\n')
    return '\n'.join(parts)
