#!/usr/bin/env python
"""Compare ranks from the weights with others of the same size: ``python tools/rank_ablation.py [CONFIGS...]``."""

import argparse
import sys
import time
from pathlib import Path

import torch

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.rank_ablation import BUDGETS, SEEDS, ablation_table, run_ablation

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [
    ROOT / 'configs' / 'sr_lora' / f'ablation_vit-micro_{criterion}_digits-20shot.py'
    for criterion in ('stable-rank', 'uniform', 'random')
]


def main(argv: list[str] | None = None) -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description='Compare rank criteria at equal parameters and equal scaling')
    parser.add_argument('configs', type=Path, nargs='*', default=CONFIGS, help='one config for each criterion')
    parser.add_argument('--budgets', type=int, nargs='+', default=BUDGETS, help='learned parameters of the adapters')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/rank_ablation'),
                        help='what it holds of an interrupted call is not run again')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # the network is too small to gain from more
    start, cells = time.perf_counter(), []
    try:
        for cell in run_ablation(args.configs, args.work_dir, args.budgets, args.seeds):
            cells.append(cell)
            accuracies = ', '.join(f'{a:.2f}' for a in cell.accuracies)
            print(f'{cell.criterion}, {cell.budget:,} parameters, lr {cell.rate:g}: {accuracies} %', flush=True)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'\n{ablation_table(cells)}\n\n{time.perf_counter() - start:.0f} s in all.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
