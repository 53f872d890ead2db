#!/usr/bin/env python
"""Generate a LoRA from a few images or a task vector: ``python tools/generate_lora.py CONFIG CHECKPOINT [options]``.

Examples::

    python tools/generate_lora.py CONFIG work_dirs/NAME/epoch_100.pth --support images --out adapter
    python tools/generate_lora.py CONFIG CHECKPOINT --support list.txt --num-samples 16 --out adapter
    python tools/generate_lora.py CONFIG CHECKPOINT --task-vectors vectors.safetensors --task dog --out adapter

The folder is an ordinary adapter, which tools/test.py and peft load.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.generate_from_vectors import generate_from_vectors
from mmlora.apis.generate_lora import SELECT, generate_lora
from mmlora.apis.options import merge_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Generate a LoRA for a new task; see docs/icm_lora.md')
    parser.add_argument('config', help='config of the training of the generator')
    parser.add_argument('checkpoint', help='checkpoint of the generator')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--support',
                        help='folder with a folder of images for each class, or a text file with lines <image> <class>')
    source.add_argument('--task-vectors', help='file of task vectors, as of tools/florence.py; needs --task')
    parser.add_argument('--task', help='name of a task in --task-vectors')
    parser.add_argument('--out', type=Path, required=True, help='adapter folder to write')
    parser.add_argument('--num-samples', type=int, default=1, help='the first is without noise')
    parser.add_argument('--select', choices=SELECT, default='support_loss', help='which sample is written')
    parser.add_argument('--seed', type=int, default=0, help='of the noise')
    parser.add_argument('--device', help='such as cuda:0; by default a GPU where there is one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots')
    args = parser.parse_args(argv)
    if (args.task is None) != (args.task_vectors is None):
        parser.error('--task-vectors and --task belong together')
    if args.task is not None and args.num_samples != 1:
        parser.error('--num-samples needs --support: without images no sample is better than another')
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    try:
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        if args.task is not None:
            print(generate_from_vectors(cfg, args.checkpoint, args.task_vectors, args.task, args.out))
            return 0
        found = generate_lora(cfg, args.checkpoint, args.support, args.out, args.num_samples, args.select, args.seed,
                              args.device)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'support loss {found.base_loss:.4g} without a LoRA; of the samples '
          + ', '.join(f'{loss:.4g}' for loss in found.losses))
    print(found.storage)
    tied = f'; {len(found.tied)} samples have its loss, {found.tied}, of which it is the first'
    print(f'{found.folder}: sample {found.chosen}' + (tied if len(found.tied) > 1 else ''))
    return 0


if __name__ == '__main__':
    sys.exit(main())
