#!/usr/bin/env python
"""Tasks of single classes, task vectors and adapter folders of Florence-2: ``python tools/florence.py --help``."""

import argparse
import sys

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.florence import NUM_IMAGES, export_florence, filter_florence, florence_task_vector
from mmlora.apis.options import merge_options


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand and return the exit status."""
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description='Tasks, task vectors and adapter folders of Florence-2')
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser('filter', help='write the annotations of some classes as a file of their own')
    command.add_argument('source', help='JSONL file of all classes')
    command.add_argument('out', help='JSONL file to write')
    command.add_argument('--classes', nargs='+', required=True, help='whole names of the classes to keep')
    command.set_defaults(run=run_filter)
    command = commands.add_parser('task-vector', help='average the states of the decoder of a tuned model')
    add_model(command)
    command.add_argument('out', help='file of task vectors, ending in .safetensors; one that is there is added to')
    command.add_argument('--task', help='name of the task, as in the bank (default: that of the class)')
    command.add_argument('--num-images', type=int, default=NUM_IMAGES, help='training images (default: %(default)s)')
    command.set_defaults(run=run_task_vector)
    command = commands.add_parser('export', help='write the adapter folder of a tuned model, for peft')
    add_model(command)
    command.add_argument('out', help='folder to write')
    command.set_defaults(run=run_export)
    return parser


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the arguments that name a trained model."""
    command.add_argument('config', help='config file')
    command.add_argument('checkpoint', help='checkpoint file')
    command.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')


def read_config(args: argparse.Namespace) -> Config:
    """Return the config that the command line names."""
    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    return cfg


def run_filter(args: argparse.Namespace) -> None:
    """Filter annotations."""
    print(f'{args.out}: {filter_florence(args.source, args.classes, args.out)} images')


def run_task_vector(args: argparse.Namespace) -> None:
    """Write a task vector."""
    vector = florence_task_vector(read_config(args), args.checkpoint, args.out, args.num_images, args.task)
    print(f'{args.out}: {len(vector)} numbers')


def run_export(args: argparse.Namespace) -> None:
    """Write an adapter folder."""
    print(export_florence(read_config(args), args.checkpoint, args.out))


if __name__ == '__main__':
    sys.exit(main())
