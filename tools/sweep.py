#!/usr/bin/env python
"""Train and test every run of a sweep: ``python tools/sweep.py SWEEP.py`` or ``python tools/sweep.py CONFIG...``.

Examples::

    python tools/sweep.py configs/sweeps/digits.py --workers 2
    python tools/sweep.py CONFIG --set shot=1,5 --set split=1,2,3 --seeds 0 1 2
    python tools/sweep.py CONFIG --tune optim_wrapper.optimizer.lr=1e-3,5e-3 --tune-set tune=True --seeds 42 44 82
    python tools/sweep.py --resume --work-dir work_dirs/sweeps/digits
"""

import argparse
import sys
from pathlib import Path

import mmlora  # noqa: F401  (first: it cures what the imports below need)
from mmlora.apis.collected import METRIC
from mmlora.apis.sweep import How, Plan, look, read_plan, summary_of, sweep
from mmlora.apis.sweep_engines import ENGINES, Resources
from mmlora.apis.sweep_plan import Grid, is_sweep_file, only, parse_values, read_grid, with_options
from mmlora.apis.sweep_tune import Tuning


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train and test many runs and make a table; see docs/sweeps.md')
    parser.add_argument('configs', nargs='*', help='a sweep file, or configs')
    parser.add_argument('--datasets', nargs='+', default=[], help='only the configs of these data sets (dataset_name)')
    parser.add_argument('--only', nargs='+', default=[], metavar='PATTERN',
                        help='only the configs whose file name fits, as in "*vit-base*"')
    parser.add_argument('--seeds', nargs='+', type=int, help='seeds (randomness.seed)')
    parser.add_argument('--set', nargs='+', action='extend', default=[], metavar='KEY=V1,V2',
                        help='settings, each combination of which is a run; keys joined by + take the same value')
    parser.add_argument('--work-dir', type=Path, help='folder of the sweep; work_dirs/sweeps/<name> by default')
    parser.add_argument('--workers', type=int, help='runs at once; one, or one for each GPU, by default')
    parser.add_argument('--threads', type=int, help='CPU threads of a run; the CPUs over --workers by default')
    parser.add_argument('--gpus', default='', help='GPUs to share out, as in 0,1')
    parser.add_argument('--engine', choices=sorted(ENGINES), default='local', help='where the processes run')
    parser.add_argument('--ray-address', help='a Ray cluster, such as auto; by default Ray is started here')
    parser.add_argument('--gpus-per-job', type=float, default=0.0, help='GPUs of a run on Ray')
    parser.add_argument('--metric', nargs='+', default=[], help='metrics of the tables')
    parser.add_argument('--dry-run', action='store_true', help='list the runs and their state')
    parser.add_argument('--resume', action='store_true', help='go on with the sweep that --work-dir holds')
    parser.add_argument('--summary-only', action='store_true', help='only write the tables of what is done')
    parser.add_argument('--retry-failed', action='store_true', help='try runs again that have failed')
    parser.add_argument('--restart-changed', action='store_true',
                        help='do runs anew whose config has changed; what they left is moved to "replaced"')
    parser.add_argument('--tune', nargs='+', action='extend', default=[], metavar='KEY=V1,V2',
                        help='settings to choose from on validation images, before the runs that are tested')
    parser.add_argument('--choose-by', help=f'metric on validation images; {METRIC} by default')
    parser.add_argument('--tune-seeds', nargs='+', type=int, help='seeds of the tuning runs; 100 101 102 by default')
    parser.add_argument('--tune-set', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='settings of the tuning runs alone, such as tune=True')
    args = parser.parse_args(argv)
    stored = args.resume or args.summary_only
    if not args.configs and not (stored and args.work_dir):
        parser.error('name a sweep file or configs, or give --work-dir with --resume or --summary-only')
    if not args.tune and (args.choose_by or args.tune_seeds or args.tune_set):
        parser.error('--choose-by, --tune-seeds and --tune-set need --tune KEY=V1,V2: the settings to choose from')
    if not args.configs and (args.datasets or args.only or args.seeds or args.set or args.tune or args.metric):
        parser.error('the stored sweep is gone on with as it is: name its sweep file or configs to change it')
    return args


def make_plan(args: argparse.Namespace) -> Plan:
    """Return what the command line asks for."""
    if not args.configs:
        return read_plan(args.work_dir)
    if len(args.configs) == 1 and is_sweep_file(args.configs[0]):
        grid = read_grid(args.configs[0])
    elif any(is_sweep_file(config) for config in args.configs):
        raise ValueError('a sweep file comes alone: name one sweep file, or configs')
    else:
        grid = Grid(tuple(dict.fromkeys(Path(config).resolve() for config in args.configs)), {})
    grid = with_options(only(grid, args.datasets, args.only), parse_settings(args.set), args.seeds)
    if not args.tune:
        return Plan(grid, metrics=tuple(args.metric))
    several = [text for text in args.tune_set if len(parse_values(text)[1]) > 1]
    if several:
        raise ValueError(f'--tune-set takes one value a key, got {", ".join(several)}')
    fixed = {key: values[0] for key, values in parse_settings(args.tune_set).items()}
    tuning = Tuning(parse_settings(args.tune), args.choose_by or METRIC, args.tune_seeds or [100, 101, 102], fixed)
    return Plan(grid, tuning, tuple(args.metric))


def parse_settings(texts: list[str]) -> dict[str, list]:
    """Return the values of settings by key."""
    settings = [parse_values(text) for text in texts]
    keys = [key for key, _ in settings]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f'{", ".join(twice)} is set twice: join the values with commas')
    return dict(settings)


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for and return the exit status."""
    plan = make_plan(args)
    work_dir = args.work_dir or Path('work_dirs/sweeps') / Path(args.configs[0]).stem
    gpus = tuple(part.strip() for part in args.gpus.split(',') if part.strip())
    resources = Resources(args.workers, gpus, args.threads, args.ray_address, args.gpus_per_job)
    how = How(args.engine, resources, args.retry_failed, args.restart_changed, lambda text: print(text, flush=True))
    if args.dry_run:
        print('\n'.join(look(plan, work_dir, how)))
        return 0
    if args.summary_only:
        print(summary_of(plan, work_dir), end='')
        return 0
    report = sweep(plan, work_dir, how)
    print(f'\n{report.summary}\nThe tables are in {work_dir}/summary.md and summary.csv.')
    if not report.failed:
        return 0
    print(f'\n{len(report.failed)} runs have failed:', file=sys.stderr)
    for name, (reason, tail) in report.failed.items():
        print(f'\n{name}: {reason}\n' + '\n'.join(f'  | {line}' for line in tail.splitlines()[-8:]), file=sys.stderr)
    print(f'\nTry them again: python tools/sweep.py --resume --work-dir {work_dir} --retry-failed\n'
          f'One alone: python -m mmlora.apis.sweep_job {work_dir}/{next(iter(report.failed))}', file=sys.stderr)
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    try:
        return run(args)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on.', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
