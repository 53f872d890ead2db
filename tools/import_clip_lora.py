#!/usr/bin/env python
"""Make an adapter folder of a file of the published CLIP-LoRA code: ``tools/import_clip_lora.py FILE --out FOLDER``."""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.clip_adapter import import_clip_lora


def main(argv: list[str] | None = None) -> int:
    """Import from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description='Make an adapter folder of a file of the published CLIP-LoRA code')
    parser.add_argument('file', help='the .pt; a path <backbone>/<data set>/<k>shots/seed<s>/<name>.pt says what it is')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument('--backbone', help='ViT-B/16, ViT-B/32 or ViT-L/14, where the path does not say it')
    parser.add_argument('--config', help='config of LoRACLIP, which brings sizes, tokenizer, classes and weights')
    parser.add_argument('--weights', help='the frozen weights, whose hash and place are recorded')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='names of the classes in the order of the labels')
    parser.add_argument('--classes-file', help='text file with the name of a class on each line')
    parser.add_argument('--template', nargs='+', dest='templates', metavar='TEXT',
                        help="prompts (default: 'a photo of a {}.', as published)")
    parser.add_argument('--dataset', help='name of the data set, where the path does not say it')
    parser.add_argument('--data-root', help="folder of CoOp's sets, from which the classes of --dataset are read")
    args = parser.parse_args(argv)
    try:
        classes = args.classes
        if args.classes_file:
            if classes:
                parser.error('--classes and --classes-file both give names: leave one out')
            lines = Path(args.classes_file).read_text(encoding='utf-8').splitlines()
            classes = [line.strip() for line in lines if line.strip()]
        config = Config.fromfile(args.config) if args.config else None
        print(import_clip_lora(args.file, args.out, args.backbone, config, classes, args.templates, args.dataset,
                               args.data_root, args.weights))
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
