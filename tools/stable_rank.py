"""Print the ranks that the weights of a checkpoint ask for, and write ranks.json, ranks.csv, ranks.png and a snippet.

Example::

    python tools/stable_rank.py vit-base.pth --out work_dirs/ranks
    python tools/stable_rank.py vit-base.safetensors --budget mean_rank=16
"""

import argparse
import sys

import mmlora  # noqa: F401  (first: it cures what the imports below need)
from mmlora.apis import parse_budget, ranks_from_checkpoint
from mmlora.io.rank_files import write_exports
from mmlora.ranks import RANK_PER


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description='Choose LoRA ranks from the weights of a checkpoint.')
    parser.add_argument('checkpoint', help='.pth, .safetensors or .npz of mmpretrain, timm, HF, OpenAI CLIP or Google')
    parser.add_argument('--criterion', default='stable_rank',
                        help='stable_rank, effective_rank, energy@SHARE, uniform or random@SEED')
    parser.add_argument('--budget', help='one of mean_rank, params and share, and any of r_min, r_max and multiple_of, '
                        'as params=500000,r_max=64; by default the rounded criterion')
    parser.add_argument('--per', default='layer', choices=RANK_PER,
                        help='one rank for a fused qkv, or one for each adapted slice by its own rows')
    parser.add_argument('--ffn', action='store_true', help='choose ranks for the feed-forward layers too')
    parser.add_argument('--slices', default='qv', help='adapted parts of a fused qkv')
    parser.add_argument('--out', help='folder for ranks.json, ranks.csv, ranks.png and ranks_config.py')
    args = parser.parse_args()
    try:
        budget = parse_budget(args.budget)
        table = ranks_from_checkpoint(args.checkpoint, args.criterion, budget, args.ffn, args.slices, args.per)
        files = write_exports(table, args.out, f'{args.criterion} of {args.checkpoint}') if args.out else {}
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(table)
    for kind, path in files.items():
        print(f'{kind:>6}: {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
