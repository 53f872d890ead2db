#!/usr/bin/env python
"""Take over a hub of the published code of LoRA-Recycle: ``python tools/import_hub.py FOLDER OUT``."""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.import_hub import import_published_hub

STATISTICS = {
    'imagenet': ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    'cifar': ([129.3105, 124.2585, 112.404], [68.2125, 65.4075, 70.4055]),
}
"""Mean and standard deviation that the published code prepares images with, in 0..255."""


def main(argv: list[str] | None = None) -> int:
    """Import from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description='Take over lora_<i>.safetensors and global_label_<i>.pth')
    parser.add_argument('folder', help='such as lorahub/cifar100_base_clip_16/5way')
    parser.add_argument('out', help='hub to write')
    parser.add_argument('--statistics', choices=sorted(STATISTICS), default='imagenet',
                        help='how images were prepared: cifar for CIFAR-FS, imagenet for the others')
    parser.add_argument('--class-names', type=Path, help='text file with the name of each class in a line')
    parser.add_argument('--first', type=int, default=0, help='added to the numbers of the classes')
    parser.add_argument('--config', help='of a hub on the backbone of these LoRAs, with its weights: the members say '
                        'which they are, and other weights are refused from then on')
    parser.add_argument('--site', default='visual.layers.{}.attn.qkv', help='name of the fused projection of a block')
    args = parser.parse_args(argv)
    try:
        names = args.class_names and args.class_names.read_text(encoding='utf-8').splitlines()
        mean, std = STATISTICS[args.statistics]
        cfg = args.config and Config.fromfile(args.config)
        hub = import_published_hub(args.folder, args.out, mean, std, names, args.first, cfg, args.site)
    except (ValueError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    stand = hub.base_sha256 or 'not known: name the backbone with --config to have them checked'
    print(f'{hub.folder}: {len(hub)} LoRAs; sha256 of the frozen weights: {stand}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
