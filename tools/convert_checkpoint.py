#!/usr/bin/env python
"""Convert weights between libraries: ``python tools/convert_checkpoint.py SRC OUT [--to timm]``."""

import argparse
import sys

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis import convert_weights
from mmlora.io.layouts import LAYOUTS


def main(argv: list[str] | None = None) -> int:
    """Convert from the command line and return the exit status."""
    writable = ', '.join(name for name, row in LAYOUTS.items() if row.writable)
    parser = argparse.ArgumentParser(description='Convert weights between libraries')
    parser.add_argument('source', help='file to read: .pth, .pt, .safetensors or .npz, of any known layout')
    parser.add_argument('out', help='file to write, ending in .pth or .safetensors; .npz with --to google')
    parser.add_argument('--to', default='mmpretrain',
                        help='layout to write (default: mmpretrain); for a Swin, timm means timm-swin. One of '
                             f'{writable}')
    parser.add_argument('--from', dest='layout', help='layout to read; told from the names by default')
    parser.add_argument('--arch', help="architecture of mmpretrain that the weights must be of, such as 'base'")
    parser.add_argument('--num-heads', type=int, help='number of attention heads, for --to google without --arch')
    parser.add_argument('--image-size', type=int, nargs='+', metavar='PIXELS',
                        help='resize the position embedding of a ViT for images of this height and width')
    parser.add_argument('--aside', action=argparse.BooleanOptionalAction,
                        help='write, or leave out, what a backbone has no place for: classifier, projection, text '
                             'tower')
    parser.add_argument('--allow', nargs='+', default=(), metavar='NAME',
                        help='names that may be left out although the layout does not know them')
    args = parser.parse_args(argv)
    size = args.image_size * 2 if args.image_size and len(args.image_size) == 1 else args.image_size
    try:
        done = convert_weights(args.source, args.out, args.to, args.layout, args.arch, args.num_heads, size, args.aside,
                               args.allow)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'{done}\n{done.path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
