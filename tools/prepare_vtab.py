#!/usr/bin/env python
"""Write VTAB-1k from tensorflow_datasets, as the package reads it.

Examples::

    python tools/prepare_vtab.py --out data/vtab-1k
    python tools/prepare_vtab.py --out data/vtab-1k --names eurosat kitti --tfds-dir /disk/tensorflow_datasets

A run that was interrupted goes on where it was. The exit status is 0 where all sets are whole, 1 where some failed, and
2 where nothing could be begun.
"""

import argparse
import sys

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.prepare_vtab import FORMATS, VERSIONS, prepare_vtab
from mmlora.datasets import VTAB_SETS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Write VTAB-1k from tensorflow_datasets',
                                     epilog=f'The sets: {", ".join(VTAB_SETS)}')
    parser.add_argument('--out', default='data/vtab-1k', help='folder of the sets; by default data/vtab-1k')
    parser.add_argument('--names', nargs='+', metavar='SET', help='the sets; by default all 19')
    parser.add_argument('--format', choices=list(FORMATS), default='jpg',
                        help='jpg, of quality 75 as published, or png, without loss')
    parser.add_argument('--tfds-dir', help='where tensorflow_datasets keeps its data; by default its own folder')
    parser.add_argument('--tfds-version', choices=VERSIONS, default='published',
                        help='published: the versions that results in use are on; any: the newest that there is')
    parser.add_argument('--workers', type=int, default=8, help='threads that encode and write images')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    try:
        failed = prepare_vtab(args.out, args.names, image_format=args.format, tfds_dir=args.tfds_dir,
                              tfds_version=args.tfds_version, workers=args.workers,
                              say=lambda text: print(text, flush=True))
    except (ValueError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
