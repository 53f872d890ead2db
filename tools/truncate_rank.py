#!/usr/bin/env python
"""Cut a trained adapter to its first components: ``python tools/truncate_rank.py CONFIG CHECKPOINT OUT --rank 8``."""

import argparse
import sys

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis import truncate_checkpoint
from mmlora.apis.options import merge_options


def main(argv: list[str] | None = None) -> int:
    """Cut from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description='Cut a trained adapter to its first components')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', help='file to write, ending in .pth')
    point = parser.add_mutually_exclusive_group(required=True)
    point.add_argument('--rank', type=int, help='number of components; layers of a lower rank keep all theirs')
    point.add_argument('--fraction', type=float, help="fraction of each layer's rank, rounded up")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots, lists as '
                             'key="[a,b]" or key=a,b')
    args = parser.parse_args(argv)
    try:
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        cut = truncate_checkpoint(cfg, args.checkpoint, args.out, rank=args.rank, fraction=args.fraction)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(cut)
    print(cut.path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
