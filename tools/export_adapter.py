#!/usr/bin/env python
"""Write the adapter folder of a checkpoint: ``python tools/export_adapter.py CONFIG CHECKPOINT --out FOLDER``."""

import argparse
import sys

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.export_adapter import export_adapter
from mmlora.apis.options import merge_options
from mmlora.io.lora_names import LIBRARIES


def main(argv: list[str] | None = None) -> int:
    """Export from the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description='Write the adapter folder of a training checkpoint; see docs/adapter_folders.md')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument('--library', choices=sorted(LIBRARIES),
                        help='whose module names peft shall find; those of the OpenMMLab backbone by default')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots, lists as '
                             'key="[a,b]" or key=a,b')
    args = parser.parse_args(argv)
    try:
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        print(export_adapter(cfg, args.checkpoint, args.out, args.library))
    except (ValueError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
