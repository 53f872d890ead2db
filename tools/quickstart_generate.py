#!/usr/bin/env python
"""The fourth job: LoRAs for held-out tasks from a few images: ``python tools/quickstart_generate.py [--tune]``."""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.generate_table import draw_comparison, table
from mmlora.apis.quickstart_generate import (
    CANDIDATES,
    COUNTS,
    FIRST_ROW,
    MEAN_ROW,
    ROWS,
    TASKS,
    Stages,
    test_all,
    train_generator,
    tune,
)
from mmlora.apis.quickstart_runs import choose

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'icm_lora'
MAX_WORKERS = 4  # each needs some 700 MB


def say(text: str) -> None:
    """Print a line now."""
    print(text, flush=True)


def compare(stages: Stages, rows: Sequence[str], counts: Mapping[str, int], workers: int) -> None:
    """Train the generators on the bank, test all rows, and print and draw the comparison."""
    start = time.perf_counter()
    configs = list(dict.fromkeys(ROWS[name].config for name in rows if ROWS[name].config))
    checkpoints = {name: str(train_generator(stages, name, say)) for name in configs}
    titles = {which: title for title, which in TASKS.items()}
    found: dict[str, dict] = {}
    for which, name, own in test_all(stages, rows, checkpoints, counts, workers):
        say(f'{titles[which]}, {name}: {sum(own.accuracies) / len(own.accuracies):.1f} %')
        found.setdefault(titles[which], {})[name] = own
    say(f'\n{table(found)}')
    picture = draw_comparison(found, stages.work_dir / 'comparison.png')
    seconds = time.perf_counter() - start
    say(f'\n{os.path.relpath(picture)}. Generators and results are in {stages.work_dir}. {seconds:.0f} s in all.')


def search(stages: Stages, tasks: int, workers: int) -> None:
    """Print the accuracy of generators on the scripts for validation."""
    checkpoints = {name: str(train_generator(stages, name, say)) for name in CANDIDATES}
    for name, accuracy, difference in tune(stages, checkpoints, tasks, workers):
        say(f'{name}: {accuracy:.2f} %, to the mean LoRA {difference[0]:+.2f} +- {difference[1]:.2f} (validation)')


def main(argv: list[str] | None = None) -> None:
    """Run the quickstart from the command line."""
    parser = argparse.ArgumentParser(description='Generate LoRAs for unseen scripts and digits, and compare them')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart-generate'))
    slugs = {name: row.slug for name, row in ROWS.items()}
    parser.add_argument('--rows', nargs='+', default=['all'], help=f'all, or some of {", ".join(slugs.values())}')
    parser.add_argument('--tasks', type=int, help='of each kind, by default '
                        + ', '.join(f'{COUNTS[which]} of {title}' for title, which in TASKS.items()))
    parser.add_argument('--tune', action='store_true', help='try generators on the scripts for validation instead')
    parser.add_argument('--workers', type=int, default=min(MAX_WORKERS, os.cpu_count() or 1), help='tests at a time')
    args = parser.parse_args(argv)
    if args.workers < 1 or (args.tasks or 2) < 2:
        parser.error(f'--workers={args.workers} must be 1 or more, --tasks={args.tasks} 2 or more')
    try:
        rows = choose([slugs[FIRST_ROW], slugs[MEAN_ROW], *args.rows], slugs)
    except ValueError as error:
        parser.error(str(error))
    stages = Stages(CONFIGS, args.work_dir)
    if args.tune:
        search(stages, args.tasks or COUNTS['val'], args.workers)
    else:
        compare(stages, rows, {which: args.tasks or COUNTS[which] for which in TASKS.values()}, args.workers)


if __name__ == '__main__':
    main()
