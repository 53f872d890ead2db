#!/usr/bin/env python
"""Test a checkpoint: ``python tools/test.py CONFIG CHECKPOINT [options]``."""

import argparse
import os

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack, in worker processes too)
from mmlora.apis import test
from mmlora.apis.distributed import LAUNCHERS, stop_processes
from mmlora.apis.options import merge_options
from mmlora.apis.unused_variables import refuse_idle_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Test a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or the adapter folder of a CLIP')
    parser.add_argument('--work-dir', help='folder for the log')
    parser.add_argument('--out', help='file for predictions (.pkl) or metrics (.json, .yaml, .pkl)')
    parser.add_argument('--out-item', choices=['metrics', 'pred'], help='what goes into --out; predictions by default')
    parser.add_argument('--no-record', action='store_true',
                        help='write neither results.json nor details (predictions) beside the checkpoint')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots, lists as '
                             'key="[a,b]" or key=a,b')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--show-dir', help='folder for images with the predictions')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--interval', type=int, default=1, help='draw every so many images')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds for which a window is shown')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin memory in data loaders')
    parser.add_argument('--tta', action='store_true',
                        help="test-time augmentation: the config's tta_pipeline and tta_model, else the mirror image")
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='what started the processes')
    # Given by torch.distributed.launch; torchrun sets the environment variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.out_item is not None and args.out is None:
        parser.error('--out-item needs --out')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main(argv: list[str] | None = None) -> None:
    """Test from the command line."""
    args = parse_args(argv)
    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    refuse_idle_options(cfg, args.cfg_options)
    test(
        cfg,
        args.checkpoint,
        out=args.out,
        out_item=args.out_item or 'pred',
        record=not args.no_record,
        work_dir=args.work_dir,
        amp=args.amp,
        tta=args.tta,
        show=args.show,
        show_dir=args.show_dir,
        interval=args.interval,
        wait_time=args.wait_time,
        pin_memory=not args.no_pin_memory,
        launcher=args.launcher,
    )
    stop_processes()


if __name__ == '__main__':
    main()
