#!/usr/bin/env python
"""Write the backbone of a checkpoint as safetensors: ``python tools/export_backbone.py CHECKPOINT OUT``."""

import argparse

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.export import export_backbone


def main(argv: list[str] | None = None) -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description='Write the backbone of a checkpoint as float32 safetensors')
    parser.add_argument('checkpoint')
    parser.add_argument('out', help='file ending in .safetensors')
    args = parser.parse_args(argv)
    print(export_backbone(args.checkpoint, args.out))


if __name__ == '__main__':
    main()
