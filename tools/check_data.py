#!/usr/bin/env python
"""Look at data before a run: that of a config, or a data set by itself.

Examples::

    python tools/check_data.py CONFIG [--read-all] [--cfg-options ...]
    python tools/check_data.py vtab1k data/vtab-1k --name eurosat
    python tools/check_data.py medfmc data/MedFMC
    python tools/check_data.py fgvc data/FGVC --name cub --layout official --read-all
    python tools/check_data.py coop data/coop --name dtd eurosat
    python tools/check_data.py list data/birds/train.txt data/birds/val.txt
    python tools/check_data.py folder data/birds
    python tools/check_data.py --list

The exit status is 0 where nothing is wrong, 1 where something has to be mended, and 2 where there is nothing to look
at: the config cannot be read, a folder does not exist, or an option does not fit.
"""

import argparse
import math
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis import check_data
from mmlora.apis.check_known import check_folders, check_known, check_lists
from mmlora.apis.data_report import DataReport
from mmlora.apis.known_data import list_known
from mmlora.apis.options import merge_options

OF_LISTS = ('classes', 'num_classes', 'multi_label', 'columns', 'image_root')
OPTIONS = {'config': ('cfg_options',), 'set': ('name', 'layout'), 'list': OF_LISTS, 'folder': ()}
PATHS = {'config': (0, 0, 'no folder'), 'set': (0, 1, 'one folder'), 'list': (1, math.inf, 'one list or several'),
         'folder': (1, math.inf, 'one folder or several')}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Look at data: counts, classes, labels, missing files, leaks')
    parser.add_argument('what', nargs='?',
                        help='a config file; or vtab1k, medfmc, fgvc, coop, digits, glyphs; list; folder')
    parser.add_argument('root', nargs='*', help='folder of the sets; or the lists; or the folders of images')
    parser.add_argument('--list', action='store_true', help='print all data sets, their folders and sources')
    parser.add_argument('--read-all', action='store_true',
                        help='read all images, not one of each part, and look for copies by content')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')
    parser.add_argument('--name', nargs='+', default=[], help='the sets, such as eurosat or cub; by default all')
    parser.add_argument('--layout', choices=['json', 'official'], help='which files of FGVC; by default JSON if there')
    parser.add_argument('--classes', nargs='+', default=[], help='names of the classes of lists')
    parser.add_argument('--num-classes', type=int, help='their number, where they have no names')
    parser.add_argument('--multi-label', action='store_true', help='each image of the lists has any number of classes')
    parser.add_argument('--columns', nargs=2, default=['image', 'label'], help='columns, or JSON keys, of the lists')
    parser.add_argument('--image-root', help='folder of the images of lists; by default that of each list')
    args = parser.parse_args(argv)
    if bool(args.what) == args.list:
        parser.error('give a config file, or a data set and its folder; or --list alone')
    is_config = str(args.what).endswith('.py') or Path(str(args.what)).is_file()
    args.kind = args.what if args.what in ('list', 'folder') else 'config' if is_config else 'set'
    allowed = OPTIONS[args.kind]
    for name in (name for names in OPTIONS.values() for name in names):
        if name not in allowed and getattr(args, name) != parser.get_default(name):
            parser.error(f'--{name.replace("_", "-")} does not go with {args.what or "--list"}')
    least, most, text = PATHS[args.kind]
    if not least <= len(args.root) <= most:
        parser.error(f'{args.what} takes {text}, not {" ".join(args.root) or "none"}')
    return args


def look(args: argparse.Namespace) -> DataReport:
    """Look at what the command line names."""
    if args.kind == 'list':
        return check_lists(args.root, read_all=args.read_all, **{name: getattr(args, name) for name in OF_LISTS})
    if args.kind == 'folder':
        return check_folders(args.root, read_all=args.read_all)
    if args.kind == 'set':
        return check_known(args.what, args.root[0] if args.root else None, args.name, read_all=args.read_all,
                           layout=args.layout)
    cfg = Config.fromfile(args.what)
    merge_options(cfg, args.cfg_options)
    return check_data(cfg, read_all=args.read_all)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    if args.list:
        print('\n'.join(list_known()))
        return 0
    try:
        report = look(args)
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(report)
    return 1 if report.problems else 0


if __name__ == '__main__':
    sys.exit(main())
