#!/usr/bin/env python
"""Write one HTML page about a folder of results: ``python tools/report.py WORK_DIR [--out FILE.html]``."""

import argparse
import sys

import mmlora  # noqa: F401  (first: it cures what the imports below need)
from mmlora.apis.reporting import write_report


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description='Write one HTML page about a run, a sweep, a hub or a pool of images; '
                                     'see docs/report.md')
    parser.add_argument('work_dir', help='folder of the run')
    parser.add_argument('--out', help='the page; report.html in the folder by default')
    args = parser.parse_args(argv)
    try:
        print(write_report(args.work_dir, args.out))
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
