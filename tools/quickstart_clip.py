#!/usr/bin/env python
"""The second job: adapt clip-micro to letters that it has not seen: ``python tools/quickstart_clip.py [--tune]``."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.quickstart_clip import (
    MAIN,
    METHODS,
    SEEDS,
    TASKS,
    choose_methods,
    config_path,
    run_all,
    tune,
    zero_shot,
)
from mmlora.apis.quickstart_runs import summary, test_again

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'clip_micro'
MAX_WORKERS = 8  # each needs some 600 MB


def compare(work_dir: Path, tasks: Sequence[str], methods: Sequence[str], workers: int) -> None:
    """Run the methods, print the tables and test a checkpoint again."""
    start = time.perf_counter()
    tables = ['Zero-shot: images against the names of letters']
    for found in zero_shot(CONFIGS, work_dir):
        what = f'{found.name}, {found.names:,} names'
        tables.append(f'{what:<38}{found.accuracy:>6.1f} %   (chance {found.chance:.1f} %)')
    print('\n'.join(tables), flush=True)
    last = {}
    for task in tasks:
        runs = []
        for run in run_all(CONFIGS, work_dir, task, methods, workers=workers):
            runs.append(run)
            print(f'{task}, {run.method}, {run.n_shot} shots, seed {run.seed}: {run.accuracy:.1f} %', flush=True)
        tables.append(f'\nFew-shot: {task}, {len(SEEDS)} seeds, test accuracy (mean +- standard deviation)\n'
                      f'{summary(runs, "images/letter")}')
        last[task] = runs[-1]
    print('\n' + '\n'.join(tables))
    run = last[tasks[0]]
    options = ['--cfg-options', f'shot={run.n_shot}', f'randomness.seed={run.seed}']
    accuracy = test_again(ROOT / 'tools' / 'test.py', config_path(CONFIGS, run.method, tasks[0]), run, *options)
    checkpoint = os.path.relpath(run.checkpoint)
    print(f'\ntools/test.py on {checkpoint}: {accuracy:.2f} % (in training: {run.accuracy:.2f} %)')
    print(f'Configs, logs and checkpoints are in {work_dir}. {time.perf_counter() - start:.0f} s in all.')
    if abs(accuracy - run.accuracy) > 1e-3:
        raise SystemExit('tools/test.py gave another accuracy than the run itself')


def search(work_dir: Path, tasks: Sequence[str], methods: Sequence[str], workers: int) -> None:
    """Print the accuracy of every hyper-parameter setting on the letters for choosing them."""
    for task in tasks:
        for method, setting, accuracy in tune(CONFIGS, work_dir, task, methods, workers=workers):
            text = ', '.join(f'{key.rpartition(".")[2]}={value:g}' for key, value in setting.items())
            print(f'{task}, {method}, {text}: {accuracy:.2f} % (validation letters)', flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run the quickstart from the command line."""
    parser = argparse.ArgumentParser(description='Adapt clip-micro to unseen letters in several ways, compare them')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart_clip'))
    parser.add_argument(
        '--methods', nargs='+', default=list(MAIN), help=f'all, or some of {", ".join(METHODS.values())}'
    )
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS.values()), default=[next(iter(TASKS.values()))],
                        help='which few-shot tables, by default the first')
    parser.add_argument('--tune', action='store_true', help='search the hyper-parameters on validation letters instead')
    parser.add_argument('--workers', type=int, default=min(MAX_WORKERS, os.cpu_count() or 1), help='runs at a time')
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f'--workers must be 1 or more, got {args.workers}')
    try:
        methods = choose_methods(args.methods)
    except ValueError as error:
        parser.error(str(error))
    tasks = [task for task, slug in TASKS.items() if slug in args.tasks]
    os.environ.setdefault('MMLORA_CACHE', str((args.work_dir / 'cache').absolute()))  # Features of images.
    if args.tune:
        search(args.work_dir / 'tune', tasks, methods, args.workers)
    else:
        compare(args.work_dir, tasks, methods, args.workers)


if __name__ == '__main__':
    main()
