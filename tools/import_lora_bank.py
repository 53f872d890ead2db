#!/usr/bin/env python
"""Take over banks of the published code of ICM-LoRA: ``python tools/import_lora_bank.py OUT TASK=FOLDER ...``.

Examples::

    python tools/import_lora_bank.py work_dirs/banks/voc dog=model_checkpoints/dog-r=8 cat=model_checkpoints/cat-r=8
    python tools/import_lora_bank.py OUT dog=dog-r=8 --hidden-states dog=hidden_state/dog_vector_avg/lora_r=8
"""

import argparse
import sys

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.build_banks_published import import_published_banks, import_published_task_vectors


def main(argv: list[str] | None = None) -> int:
    """Import from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description='Take over adapter_model_<i>.safetensors, normalized_*.pth and epochs')
    parser.add_argument('out', help='banks to write')
    parser.add_argument('tasks', nargs='+', metavar='TASK=FOLDER', help='name of a task, and the folder of its bank')
    parser.add_argument('--alpha', type=float, default=8.0, help='lora_alpha of the trainings; 8 by default')
    parser.add_argument('--no-rslora', action='store_true', help='the scaling is alpha / r, not alpha / sqrt(r)')
    parser.add_argument('--base-sha256', help='hash of the weights that the LoRAs stand on')
    parser.add_argument('--max-keep', type=int, help='take the last so many checkpoints of each task alone')
    parser.add_argument('--hidden-states', nargs='+', default=[], metavar='TASK=PATH',
                        help='hidden_state.pth of tasks, or folders with it; written to OUT.task_vectors.safetensors')
    args = parser.parse_args(argv)
    try:
        tasks, states = (_pairs(given) for given in (args.tasks, args.hidden_states))
        if args.max_keep is not None and args.max_keep < 1:
            raise ValueError(f'--max-keep must be at least 1, got {args.max_keep}')
        banks = import_published_banks(tasks, args.out, args.alpha, not args.no_rslora, args.base_sha256, args.max_keep)
        print(f'{banks.folder}: {len(banks)} tasks, {sum(len(task.checkpoints) for task in banks.tasks)} checkpoints '
              f'of rank {banks.spec.rank}, {banks.spec.length} numbers each')
        if states:
            print(import_published_task_vectors(states, f'{args.out}.task_vectors.safetensors'))
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def _pairs(given: list[str]) -> dict[str, str]:
    wrong = [one for one in given if not all(one.partition('=')[::2])]
    if wrong:
        raise ValueError(f'{wrong[0]!r} is no TASK=FOLDER')
    return dict(one.split('=', 1) for one in given)


if __name__ == '__main__':
    sys.exit(main())
