#!/usr/bin/env python
"""Evaluate a trained adapter at lower ranks, print the curve, and write rank_curve.csv and rank_curve.png.

Example::

    python tools/rank_curve.py CONFIG CHECKPOINT --ranks 1,2,4,8
    python tools/rank_curve.py CONFIG CHECKPOINT --fractions 0.1,0.25,0.5 --split test
"""

import argparse
import os
import sys
from collections.abc import Callable

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack, in worker processes too)
from mmlora.apis.distributed import LAUNCHERS, stop_processes
from mmlora.apis.options import merge_options
from mmlora.apis.rank_curve import SPLITS, rank_curve


def numbers(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    """Return a parser of numbers that commas separate."""

    def parse(text: str) -> list[float]:
        try:
            return [kind(part) for part in text.split(',')]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f'{text!r} is not a list such as 1,2,4 ({error})') from error

    return parse


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a trained adapter at lower ranks')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--ranks', type=numbers(int), help='numbers of components, as 1,2,4,8; layers of a lower rank '
                        'use all theirs; without --fractions by default the powers of two')
    parser.add_argument('--fractions', type=numbers(float), help="fractions of each layer's rank, as 0.1,0.25,0.5")
    parser.add_argument('--split', choices=SPLITS, default='val',
                        help='the data to evaluate on; a rank that is chosen on test data has seen them')
    parser.add_argument('--keep-scaling', action='store_true',
                        help='scale the lower ranks as the full one; by default the scaling follows its rule')
    parser.add_argument('--out', help='folder for rank_curve.csv and rank_curve.png; by default that of the log')
    parser.add_argument('--work-dir', help='folder for the log')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots, lists as '
                             'key="[a,b]" or key=a,b')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='what started the processes')
    # Given by torch.distributed.launch; torchrun sets the environment variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main(argv: list[str] | None = None) -> int:
    """Evaluate from the command line and return the exit status."""
    args = parse_args(argv)
    try:
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        rank_curve(
            cfg,
            args.checkpoint,
            ranks=args.ranks,
            fractions=args.fractions,
            split=args.split,
            rescale=not args.keep_scaling,
            out=args.out,
            work_dir=args.work_dir,
            amp=args.amp,
            launcher=args.launcher,
        )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    stop_processes()
    return 0


if __name__ == '__main__':
    sys.exit(main())
