#!/usr/bin/env python
"""Build banks of LoRAs, for each of many tasks several checkpoints: ``python tools/build_lora_bank.py CONFIG``.

Examples::

    python tools/build_lora_bank.py configs/icm_lora/bank_vit-micro_glyphs-5way.py --num-tasks 200
    python tools/build_lora_bank.py CONFIG --together 16 --work-dir work_dirs/banks/mine

The same command goes on with banks that were stopped, and adds tasks where --num-tasks has grown.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.build_banks import banks_to_do, build_banks, settle_banks
from mmlora.apis.options import merge_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Build banks of LoRAs over many tasks; see docs/icm_lora.md')
    parser.add_argument('config', help='config file with entries hub and bank')
    parser.add_argument('--work-dir', type=Path, help='the banks; work_dirs/banks/<name of the config> by default')
    parser.add_argument('--num-tasks', type=int, help='takes the place of hub.num_loras')
    parser.add_argument('--together', type=int, help='tasks that are trained at once; takes the place of hub.together')
    parser.add_argument('--seed', type=int, help='takes the place of randomness.seed')
    parser.add_argument('--device', help='such as cuda:0; by default a GPU where there is one')
    parser.add_argument('--dry-run', action='store_true', help='say which tasks are missing, and train none')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, as key=value; nested keys with dots')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    if args.seed is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
    folder = args.work_dir or Path('work_dirs/banks') / Path(args.config).stem
    if args.dry_run:
        groups = banks_to_do(settle_banks(cfg, args.num_tasks, args.together)[0], folder)
        print(f'{folder}: {len(groups)} groups to do: ' + ', '.join(f'{g[0]}-{g[-1]}' for g in groups))
        return
    report = build_banks(cfg, folder, args.num_tasks, args.together, args.device,
                         lambda text: print(text, flush=True))
    banks = report.banks
    best = [task.checkpoints[0].metric for task in banks.tasks]
    print(f'{banks.folder}: {len(banks)} tasks, {sum(len(task.checkpoints) for task in banks.tasks)} checkpoints of '
          f'{banks.spec.length} numbers ({banks.factors}); {banks.metric} {sum(best) / len(best):.2f} on average; '
          f'{report.built} tasks trained, {report.loras_per_minute:.1f} a minute')


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        run(parse_args(argv))
    except (ValueError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
