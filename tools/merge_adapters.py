#!/usr/bin/env python
"""Make one LoRA of several: ``python tools/merge_adapters.py HUB|FOLDERS --method factors --out FOLDER``."""

import argparse
import sys

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.adapters.arithmetic import merge_names
from mmlora.apis.merge_adapters import merge_adapter_folders


def main(argv: list[str] | None = None) -> int:
    """Merge from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description='Make one LoRA of several; see docs/hub.md')
    parser.add_argument('sources', nargs='+', help='folders of LoRAs, or hubs, of which all members count')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument('--method', choices=merge_names(), default='factors')
    parser.add_argument('--weights', type=float, nargs='+', help='one for each LoRA; 1/n by default, 1 for sum')
    parser.add_argument('--rank', type=int, help='rank of the result of the methods that cut it')
    parser.add_argument('--density', type=float, help='part of the entries that sparse methods keep')
    parser.add_argument('--seed', type=int, default=0, help='of the entries that dare drops')
    args = parser.parse_args(argv)
    try:
        print(merge_adapter_folders(
            args.sources, args.out, args.method, args.weights, args.rank, args.density, args.seed))
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
