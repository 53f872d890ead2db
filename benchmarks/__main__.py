"""Run suites and print Markdown: ``python -m benchmarks [--suite NAME ...] [--device cpu|cuda] [--out FILE]``."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence

import torch

import mmlora  # noqa: F401
from mmlora.io.atomic import write_text

from . import report
from .core import CLOCKS, Comparison, DisagreementError, measure, measure_growth
from .suites import ABOUT, SUITES
from .targets import Outcome, not_measured


def run(names: Sequence[str], device: torch.device, quick: bool, rounds: int | None, clock: str) -> tuple[str, bool]:
    """Return the tables of suites with all targets behind, and whether all ways agreed where they have to."""
    parts, good, found, seconds = [], True, {}, {}
    for name in names:
        begin, found[name] = time.perf_counter(), []
        parts.append(report.about(name, ABOUT[name]))
        print(parts[-1], flush=True)
        for item in SUITES[name](device, quick):
            if isinstance(item, Comparison):
                text, own, agreed = compare(item, device, rounds, clock)
                found[name] += own
                good &= agreed
            else:
                text = report.growth(item, measure_growth(item, device, rounds, clock))
            parts.append(text)
            print(text, flush=True)
        seconds[name] = time.perf_counter() - begin
    parts.append(report.summary(found, seconds))
    print(parts[-1], flush=True)
    return '\n'.join(parts), good


def compare(
    item: Comparison, device: torch.device, rounds: int | None, clock: str
) -> tuple[str, list[Outcome], bool]:
    """Return the table of a comparison, what became of its targets, and whether its ways agree."""
    try:
        rows, found = measure(item, device, rounds, clock)
    except DisagreementError as error:
        found = [not_measured(target, item.title, item.absent, 'the ways disagree') for target in item.targets]
        return report.disagreement(item, str(error), found), found, False
    return report.comparison(item, rows, found), found, True


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print; 1 where two ways disagree."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__.split(':')[0])
    parser.add_argument('--suite', nargs='+', choices=sorted(SUITES), default=list(SUITES), help='default: all')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--clock', choices=sorted(CLOCKS), default='wall', help='cpu: for a machine that others use too'
    )
    parser.add_argument('--rounds', type=int, help='counted rounds; by default those of the suite')
    parser.add_argument('--out', help='file for the page, besides the screen')
    parser.add_argument('--quick', action='store_true', help='small sizes and few rounds, to see that it works')
    args = parser.parse_args(arguments)
    if args.rounds is not None and args.rounds < 1:
        parser.error(f'--rounds must be at least 1, got {args.rounds}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no GPU here')
    if args.device == 'cuda' and args.clock == 'cpu':
        parser.error('--clock cpu does not see the time of a GPU: leave it out')
    device = torch.device(args.device)
    given = sys.argv[1:] if arguments is None else arguments
    head = report.head(shlex.join(['python', '-m', 'benchmarks', *given]), device, args.clock)
    print(head)
    tables, good = run(args.suite, device, args.quick, args.rounds or (2 if args.quick else None), args.clock)
    if args.out:
        write_text(args.out, f'{head}\n{tables}')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
