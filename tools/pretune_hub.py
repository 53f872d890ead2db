#!/usr/bin/env python
"""Train many LoRAs over one frozen backbone, each for a task of its own: ``python tools/pretune_hub.py CONFIG``.

Examples::

    python tools/pretune_hub.py configs/lora_recycle/hub_vit-micro_glyphs-5way.py
    python tools/pretune_hub.py CONFIG --num-loras 16 --together 8 --work-dir work_dirs/hubs/mine
    python tools/pretune_hub.py CONFIG --workers 2                 # two groups at once, each in a process
    python tools/pretune_hub.py CONFIG --engine ray --ray-address auto --gpus-per-job 1

The same command goes on with a hub that was stopped, and adds LoRAs where --num-loras has grown.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.hub_plan import HubPlan, groups_to_do, hub_identity, settle_hub
from mmlora.apis.options import merge_options
from mmlora.apis.pretune_hub import HubRun, pretune_hub
from mmlora.apis.sweep_engines import ENGINES, Resources


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train many LoRAs over one frozen backbone; see docs/hub.md')
    parser.add_argument('config', help='config file with an entry hub')
    parser.add_argument('--work-dir', type=Path, help='the hub; work_dirs/hubs/<name of the config> by default')
    parser.add_argument('--num-loras', type=int, help='takes the place of hub.num_loras')
    parser.add_argument('--together', type=int, help='tasks that are trained at once; takes the place of hub.together')
    parser.add_argument('--seed', type=int, help='takes the place of randomness.seed')
    parser.add_argument('--device', help='such as cuda:0; by default a GPU where there is one')
    parser.add_argument('--engine', choices=sorted(ENGINES), default='local', help='where the groups are trained')
    parser.add_argument('--workers', type=int, help='groups at once, each in a process of its own; 1 by default')
    parser.add_argument('--threads', type=int, help='CPU threads of a process; the CPUs over --workers by default')
    parser.add_argument('--gpus', default='', help='GPUs to share out among the processes, as in 0,1')
    parser.add_argument('--ray-address', help='a Ray cluster, such as auto; by default Ray is started here')
    parser.add_argument('--gpus-per-job', type=float, default=0.0, help='GPUs of a group on Ray')
    parser.add_argument('--dry-run', action='store_true', help='say which LoRAs are missing, and train none')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for and return the exit status."""
    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    if args.seed is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
    folder = args.work_dir or Path('work_dirs/hubs') / Path(args.config).stem
    gpus = tuple(part.strip() for part in args.gpus.split(',') if part.strip())
    workers = args.workers or (len(gpus) or None)
    if args.dry_run:
        settled = settle_hub(cfg, args.num_loras, args.together)
        groups = groups_to_do(HubPlan(**settled.hub), hub_identity(settled), folder)
        print(f'{folder}: {len(groups)} groups to do: ' + ', '.join(f'{g[0]}-{g[-1]}' for g in groups))
        return 0
    resources = Resources(workers, gpus, args.threads, args.ray_address, args.gpus_per_job)
    how = HubRun(args.engine, resources, args.device, lambda text: print(text, flush=True))
    report = pretune_hub(cfg, folder, args.num_loras, args.together, how)
    if report.hub is not None:
        accuracies = [record['metrics']['accuracy/top1'] for record in report.hub.records.values()]
        print(f'{report.hub.folder}: {len(report.hub)} LoRAs, {sum(accuracies) / len(accuracies):.2f} % on average on '
              'the images for validation of their tasks')
    for name, (reason, tail) in report.failed.items():
        lines = '\n'.join(f'  | {line}' for line in tail.splitlines()[-8:])
        print(f'\n{name}: {reason}\n{lines}', file=sys.stderr)
    return 1 if report.failed else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        return run(parse_args(argv))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on.', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
