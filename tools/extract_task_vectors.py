#!/usr/bin/env python
"""Describe the tasks of a bank by what a frozen backbone sees: ``python tools/extract_task_vectors.py CONFIG``.

Examples::

    python tools/extract_task_vectors.py configs/icm_lora/conv-cvae_vit-micro_glyphs-5way.py --picture pca
    python tools/extract_task_vectors.py CONFIG --shot 1 --num-draws 32 --out vectors.safetensors

The config is that of a generator. Banks and file are those of its training data, unless told otherwise.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.extract_task_vectors import describe_record, extract_task_vectors
from mmlora.apis.options import merge_options
from mmlora.apis.vector_picture import METHODS, draw_vectors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Extract task vectors of a bank of LoRAs; see docs/icm_lora.md')
    parser.add_argument('config', help='config of a generator')
    parser.add_argument('--banks', type=Path, help='folder of the banks')
    parser.add_argument('--out', type=Path, help='file to write, ending in .safetensors')
    parser.add_argument('--shot', type=int, help='images of a class in a support set')
    parser.add_argument('--num-draws', type=int, help='support sets of each task')
    parser.add_argument('--device', help='such as cuda:0; by default a GPU where there is one')
    parser.add_argument('--picture', choices=METHODS, help='draw the vectors beside the file, as PNG')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    try:
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        path, found = extract_task_vectors(cfg, args.banks, args.out, args.shot, args.num_draws, args.device,
                                           lambda text: print(text, flush=True))
        print(f'{path}: {len(found.vectors)} tasks, {describe_record(found.record)}')
        if args.picture:
            vectors = {name: value.numpy() for name, value in found.vectors.items()}
            print(draw_vectors(vectors, path.with_suffix(f'.{args.picture}.png'), args.picture))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
