#!/usr/bin/env python
"""The main job: adapt vit-micro to handwritten digits in several ways: ``python tools/quickstart.py [--tune]``."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.quickstart import (
    MAIN,
    METHODS,
    SEEDS,
    SHOTS,
    choose_methods,
    config_path,
    rank_table,
    run_all,
    tune,
)
from mmlora.apis.quickstart_runs import summary, test_again

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'quickstart'
MAX_WORKERS = 8  # each needs some 600 MB


def compare(work_dir: Path, methods: Sequence[str], workers: int) -> None:
    """Run the methods, print the tables and test a checkpoint again."""
    start = time.perf_counter()
    runs = []
    for run in run_all(CONFIGS, work_dir, methods, workers=workers):
        runs.append(run)
        print(f'{run.method}, {run.n_shot} images per class, seed {run.seed}: {run.accuracy:.1f} %', flush=True)
    tested = 'SR-LoRA' if 'SR-LoRA' in methods else methods[-1]
    chosen = next(r for r in runs if (r.method, r.n_shot, r.seed) == (tested, SHOTS[-1], SEEDS[0]))
    again = test_again(ROOT / 'tools' / 'test.py', config_path(CONFIGS, chosen.method, chosen.n_shot), chosen)
    print(f'\nHandwritten digits, {len(SEEDS)} seeds, test accuracy (mean +- standard deviation)\n{summary(runs)}')
    if tested == 'SR-LoRA':
        print(f'\nRanks that SR-LoRA chose from the frozen weights\n{rank_table(CONFIGS)}')
    checkpoint = os.path.relpath(chosen.checkpoint)
    print(f'\ntools/test.py on {checkpoint}: {again:.2f} % (in training: {chosen.accuracy:.2f} %)')
    print(f'Configs, logs, rank tables and checkpoints are in {work_dir}. {time.perf_counter() - start:.0f} s in all.')
    if abs(again - chosen.accuracy) > 1e-3:
        raise SystemExit('tools/test.py gave another accuracy than the run itself')


def search(work_dir: Path, methods: Sequence[str], workers: int) -> None:
    """Print the validation accuracy of every hyper-parameter setting."""
    for method, n_shot, setting, accuracy in tune(CONFIGS, work_dir, methods, workers=workers):
        text = ', '.join(f'{key.rpartition(".")[2]}={value:g}' for key, value in setting.items())
        print(f'{method}, {n_shot} images per class, {text}: {accuracy:.2f} % (validation)', flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run the quickstart from the command line."""
    parser = argparse.ArgumentParser(description='Adapt vit-micro to handwritten digits in several ways, compare them')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart'))
    parser.add_argument(
        '--methods', nargs='+', default=list(MAIN), help=f'all, or some of {", ".join(METHODS.values())}'
    )
    parser.add_argument('--tune', action='store_true', help='search the hyper-parameters on validation images instead')
    parser.add_argument('--workers', type=int, default=min(MAX_WORKERS, os.cpu_count() or 1), help='runs at a time')
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f'--workers must be 1 or more, got {args.workers}')
    try:
        methods = choose_methods(args.methods)
    except ValueError as error:
        parser.error(str(error))
    if args.tune:
        search(args.work_dir / 'tune', methods, args.workers)
    else:
        compare(args.work_dir, methods, args.workers)


if __name__ == '__main__':
    main()
