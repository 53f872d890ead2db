"""The process of one group of a hub: ``python -m mmlora.apis.hub_job FOLDER``.

It trains the tasks that ``job.json`` in the folder names, writes their members into the hub and writes down that it is
done. By hand, the command repeats a group that failed.
"""

import argparse
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from .hub_members import train_groups
from .sweep_job import follow_parent
from .sweep_lock import lock_folder
from .sweep_state import DONE, read_state, write_state

LOCK = '.job.lock'
_WAIT = 30.0  # Seconds that a killed process may take to let go of its folder.


def run_group(folder: str | os.PathLike) -> None:
    """Train a group.

    Raises:
        FileNotFoundError: There is no ``job.json``.
        ValueError: The group cannot be trained.
        RuntimeError: Another process is at it.
    """
    folder = Path(folder)
    state = read_state(folder)
    if state is None:
        raise FileNotFoundError(f'{folder} has no job.json: the folder of a group is made by tools/pretune_hub.py')
    with lock_folder(folder, LOCK, _WAIT):
        cfg = Config(state['config'])
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
        train_groups(cfg, Path(state['hub']), [state['numbers']], state['device'], lambda _: None)
        write_state(folder, status=DONE)


def main(argv: list[str] | None = None) -> None:
    """Run one group from the command line."""
    parser = argparse.ArgumentParser(prog='python -m mmlora.apis.hub_job', description='Repeat one group of a hub')
    parser.add_argument('folder', help='folder of the group, with its job.json')
    parser.add_argument('--end-with-input', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.end_with_input:
        follow_parent()
    run_group(args.folder)


if __name__ == '__main__':
    main()
