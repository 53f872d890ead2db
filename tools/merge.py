#!/usr/bin/env python
"""Merge the adapters of a checkpoint into its weights: ``python tools/merge.py CONFIG CHECKPOINT OUT``."""

import argparse

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis import merge_checkpoint
from mmlora.apis.merge import CLIP_LAYOUTS
from mmlora.apis.options import merge_options


def main(argv: list[str] | None = None) -> None:
    """Merge from the command line."""
    parser = argparse.ArgumentParser(description='Merge the adapters of a checkpoint into its weights')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or the adapter folder of a CLIP')
    parser.add_argument('out', help='file to write, ending in .pth or .safetensors; its config is written beside it')
    parser.add_argument('--layout', choices=CLIP_LAYOUTS,
                        help='whose names the weights of a CLIP get: those of OpenAI and open_clip, which are the '
                             "same, or of transformers' CLIPModel (default: ours)")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots, lists as '
                             'key="[a,b]" or key=a,b')
    args = parser.parse_args(argv)
    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    weights, config = merge_checkpoint(cfg, args.checkpoint, args.out, args.layout)
    print(f'{weights}\n{config}')


if __name__ == '__main__':
    main()
