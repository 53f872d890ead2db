#!/usr/bin/env python
"""Look at the data of a config before a run: ``python tools/check_data.py CONFIG [--read-all] [--cfg-options ...]``.

The exit status is 0 where nothing is wrong, 1 where something has to be mended, and 2 where the config cannot be read.
"""

import argparse
import sys

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis import check_data
from mmlora.apis.options import merge_options


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description='Look at the data of a config: counts, labels, missing files, leaks')
    parser.add_argument('config', help='config file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')
    parser.add_argument('--read-all', action='store_true', help='read all images through the pipeline, not one')
    args = parser.parse_args(argv)
    try:
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        report = check_data(cfg, read_all=args.read_all)
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(report)
    return 1 if report.problems else 0


if __name__ == '__main__':
    sys.exit(main())
