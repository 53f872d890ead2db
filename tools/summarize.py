#!/usr/bin/env python
"""Make tables from the results of tests: ``python tools/summarize.py work_dirs [options]``.

Example::

    python tools/summarize.py work_dirs
    python tools/summarize.py work_dirs/a work_dirs/b --metric auc/mean --format csv --out results.csv
"""

import argparse
import sys

import mmlora  # noqa: F401  (first: it cures what the imports below need)
from mmlora.apis.collected import LABELS, METRIC
from mmlora.apis.summarize import BY, summarize
from mmlora.apis.tables import FORMATS
from mmlora.io.atomic import write_text


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description='Make tables from the results that tools/test.py has recorded.')
    parser.add_argument('work_dirs', nargs='+', help='folders, searched to any depth for results.json')
    parser.add_argument('--metric', default=METRIC, help=f'as tests print it; {METRIC} by default')
    parser.add_argument('--format', choices=sorted(FORMATS), default='markdown',
                        help='markdown: means over splits and seeds; csv: every single result')
    parser.add_argument('--by', default=','.join(BY), metavar='NAMES',
                        help=f'what a row of the table is, of {",".join(LABELS)}; {",".join(BY)} by default')
    parser.add_argument('--out', help='file to write; printed by default')
    args = parser.parse_args(argv)
    try:
        text = FORMATS[args.format](summarize(args.work_dirs, args.metric, args.by.split(',')))
        if args.out:
            write_text(args.out, text)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'written to {args.out}' if args.out else text, end='\n' if args.out else '')
    return 0


if __name__ == '__main__':
    sys.exit(main())
