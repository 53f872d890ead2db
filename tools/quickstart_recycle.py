#!/usr/bin/env python
"""The third job: recycle many LoRAs into one that needs no tuning: ``python tools/quickstart_recycle.py [--tune]``."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.quickstart_recycle import (
    BASE,
    EPISODES,
    FIRST,
    HUB,
    MAIN,
    METHODS,
    Stages,
    make_average,
    make_pool,
    meta_train,
    test_all,
    tune,
)
from mmlora.apis.quickstart_runs import choose
from mmlora.apis.recycle_table import draw_comparison, table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'lora_recycle'
MAX_WORKERS = 4  # each needs some 800 MB


def compare(stages: Stages, methods: Sequence[str], episodes: int, workers: int) -> None:
    """Make what the methods need, test them, and print and draw the comparison."""
    start = time.perf_counter()
    runs = list(dict.fromkeys(METHODS[name].run for name in methods if METHODS[name].run))
    if set(runs) - {'pmf'}:
        pool = make_pool(stages, lambda text: print(text, flush=True))
        print(f'{len(pool.images)} images of {len(pool.classes)} letters: {stages.pool / "sheet.png"}')
        make_average(stages)
    checkpoints = dict.fromkeys(methods, BASE)
    for run in runs:
        path, accuracy = meta_train(stages, run)
        print(f'{run}: {accuracy:.1f} % on the letters for validation, 1 shot ({path})', flush=True)
        checkpoints.update({name: path for name in methods if METHODS[name].run == run})
    found: dict[str, dict] = {}
    for task, name, scores in test_all(stages, checkpoints, episodes, workers):
        means = ', '.join(f'{shot} shot {value.accuracies.mean():.1f} %' for shot, value in scores.items())
        print(f'{task}, {name}: {means}', flush=True)
        found.setdefault(task, {})[name] = scores
    print(f'\n{table(found)}')
    picture = draw_comparison(found, stages.work_dir / 'comparison.png')
    print(f'\n{os.path.relpath(picture)}. {time.perf_counter() - start:.0f} s in all.')


def search(stages: Stages) -> None:
    """Print the accuracy of settings of meta-training on the letters for validation."""
    make_pool(stages, lambda text: print(text, flush=True))
    make_average(stages)
    for setting, accuracy in tune(stages):
        text = ', '.join(f'{key.rpartition(".")[2]}={value}' for key, value in setting.items())
        print(f'{text}: {accuracy:.2f} % (validation letters, 1 shot)', flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run the quickstart from the command line."""
    parser = argparse.ArgumentParser(description=f'Recycle the LoRAs of {HUB}, and compare the result on new classes')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart_recycle'))
    slugs = {name: method.slug for name, method in METHODS.items()}
    parser.add_argument('--methods', nargs='+', default=list(MAIN), help=f'all, or some of {", ".join(slugs.values())}')
    parser.add_argument('--episodes', type=int, default=EPISODES, help='of each test')
    parser.add_argument('--tune', action='store_true', help='try settings on the letters for validation instead')
    parser.add_argument('--workers', type=int, default=min(MAX_WORKERS, os.cpu_count() or 1), help='tests at a time')
    args = parser.parse_args(argv)
    if args.workers < 1 or args.episodes < 2:
        parser.error(f'--workers={args.workers} must be 1 or more, --episodes={args.episodes} 2 or more')
    try:
        methods = choose([slugs[FIRST], *args.methods], slugs)
    except ValueError as error:
        parser.error(str(error))
    if len(methods) < 2:
        parser.error(f'--methods must name one to compare with {slugs[FIRST]}')
    stages = Stages(CONFIGS, args.work_dir)
    if args.tune:
        search(stages)
    else:
        compare(stages, methods, args.episodes, args.workers)


if __name__ == '__main__':
    main()
