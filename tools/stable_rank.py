"""Choose LoRA ranks for the weights of a checkpoint, or for a config, and write them in every form.

Example::

    python tools/stable_rank.py vit-base.pth --out work_dirs/ranks
    python tools/stable_rank.py vit-base.safetensors --per slice --budget params=500000,r_max=64
    python tools/stable_rank.py vit-base.pth --criterion energy@0.9 --budget mean_rank=16 --names timm --out ranks
    python tools/stable_rank.py --config CONFIG --criterion eva --budget mean_rank=8
"""

import argparse
import sys

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it cures what the imports below need)
from mmlora.apis.options import merge_options
from mmlora.apis.rank_report import parse_budget, ranks_from_checkpoint, ranks_from_config
from mmlora.io.peft_config import NAMES, peft_config
from mmlora.io.rank_files import write_exports
from mmlora.ranks import CRITERIA, RANK_PER

FOR_CHECKPOINT = dict(ffn=False, slices='qv', alpha=1.0, scaling='alpha/r')
"""Options that a config answers itself."""


def number_or_name(text: str) -> float | str:
    """Return the number that a text is, or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Choose LoRA ranks from the weights of a checkpoint, or for a config.')
    parser.add_argument('checkpoint', nargs='?',
                        help='.pth, .safetensors or .npz of mmpretrain, timm, HF, OpenAI CLIP or Google')
    parser.add_argument('--config', help='in place of a checkpoint: weights, modules and training data of this config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')
    parser.add_argument('--criterion', help=f'one of {", ".join(CRITERIA)}, with its parameter as in energy@0.9; by '
                        'default stable_rank, or what the config asks for')
    parser.add_argument('--budget', help='one of mean_rank, params and share, and any of r_min, r_max and multiple_of, '
                        'as params=500000,r_max=64; by default the rounded criterion')
    parser.add_argument('--per', choices=RANK_PER,
                        help='one rank for a fused qkv (default), or one for each adapted slice by its own rows')
    parser.add_argument('--ffn', action='store_true', default=None,
                        help='choose ranks for feed-forward layers too, for a checkpoint')
    parser.add_argument('--slices', help='adapted parts of a fused qkv, for a checkpoint; by default qv')
    parser.add_argument('--out', help='folder for ranks.json, .csv, .png, ranks_config.py and peft_config.json')
    parser.add_argument('--names', default='mmpretrain', choices=NAMES, help='module names in peft_config.json')
    parser.add_argument('--alpha', type=float, help='lora_alpha in peft_config.json, for a checkpoint; by default 1')
    parser.add_argument('--scaling', type=number_or_name,
                        help='lora_scaling in peft_config.json, for a checkpoint; by default alpha/r')
    args = parser.parse_args(argv)
    if (args.checkpoint is None) == (args.config is None):
        parser.error('give a checkpoint, or --config')
    given = [f'--{name}' for name in FOR_CHECKPOINT if getattr(args, name) is not None]
    if args.config and given:
        parser.error(f'{", ".join(given)}: for a checkpoint only; set it in the config, or by --cfg-options')
    if args.checkpoint and args.cfg_options:
        parser.error('--cfg-options need --config')
    for name, value in FOR_CHECKPOINT.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    notes = []
    try:
        budget = parse_budget(args.budget)
        if args.config:
            cfg = Config.fromfile(args.config)
            merge_options(cfg, args.cfg_options)
            table, adapter = ranks_from_config(cfg, args.criterion, budget, args.per)
        else:
            table = ranks_from_checkpoint(
                args.checkpoint, args.criterion or 'stable_rank', budget, args.ffn, args.slices, args.per or 'layer'
            )
            adapter = dict(alpha=args.alpha, scaling=args.scaling, slices=args.slices)
        files = {}
        if args.out:
            peft, notes = peft_config(table, args.names, **adapter)
            files = write_exports(table, args.out, f'Ranks of {args.config or args.checkpoint}', peft)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(table)
    for kind, path in files.items():
        print(f'{kind:>6}: {path}')
    for note in notes:
        print(f'  note: {note}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
