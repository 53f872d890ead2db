"""The process of one run of a sweep: ``python -m mmlora.apis.sweep_job FOLDER``.

It trains by what ``job.json`` in the folder says, or goes on from the folder's checkpoint, tests the last checkpoint
and writes down that it is done. By hand, the command repeats a run that failed.
"""

import argparse
import copy
import gc
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from .check_data import check_data
from .records import check_results, sha256_of
from .resuming import POINTER, find_resumable
from .sweep_lock import lock_folder
from .sweep_plan import differences, identity, settle_job
from .sweep_state import DONE, MARK, doubt, foreign_checkpoint, last_checkpoint, read_state, write_state
from .test import test
from .train import train

LOCK = '.job.lock'
_WAIT = 30.0  # Seconds that a killed process may take to let go of its folder.


def run_job(folder: str | os.PathLike) -> dict[str, float]:
    """Train and test what ``job.json`` of a folder describes.

    Args:
        folder: Folder of the run. With a checkpoint of this run in it, training goes on from there.

    Returns:
        The metrics.

    Raises:
        FileNotFoundError: There is no ``job.json``.
        ValueError: The config is not the one any more that the run is for, a checkpoint in the folder is of another
            run, or the run cannot be trained or tested.
        RuntimeError: Another process is at this run.
    """
    folder = Path(folder)
    state = read_state(folder)
    if state is None:
        raise FileNotFoundError(f'{folder} has no job.json: the folder of a run is made by tools/sweep.py')
    with lock_folder(folder, LOCK, _WAIT):
        cfg = _settle(state)
        _forget_lost(folder)
        foreign = foreign_checkpoint(folder, state['key'])
        if foreign:
            raise ValueError(f'{foreign} is of another run than {folder} is for: move it away, or start this run anew '
                             'with --restart-changed')
        if state['measure'] == 'val':
            check_apart(Config.fromfile(state['config']), state['options'])
        _train(cfg, folder, state['key'])
        checkpoint = last_checkpoint(folder)
        if checkpoint is None and (found := find_resumable(folder)):
            checkpoint = Path(found[0])  # A training that had ended before nobody points to its checkpoint.
        if checkpoint is None:
            raise ValueError(f'the training in {folder} has left no checkpoint: add a CheckpointHook to the config')
        metrics = test(cfg, str(checkpoint), work_dir=str(folder / state['measure']), record=state['measure'] == 'test')
        _finish(folder, checkpoint, state['measure'], metrics)
    return metrics


def check_apart(cfg: Config, options: Mapping[str, Any]) -> None:
    """Check that no image that settings are chosen with is trained on or tested on. Only files are compared.

    Args:
        cfg: The config as in its file; it is changed.
        options: Settings of the run.

    Raises:
        ValueError: Some are.
    """
    files = {loader.loader: loader.files for loader in check_data(settle_job(cfg, options, 'test')).loaders}
    own = files.get('val_dataloader', set())
    for name, what in (('train_dataloader', 'trained on'), ('test_dataloader', 'tested on')):
        both = own & files.get(name, set())
        if both:
            raise ValueError(f'{len(both)} of the {len(own)} validation images are {what} too, such as {min(both)}: '
                             'settings cannot be chosen with them. Where the config has variables for it, give '
                             '--tune-set tune=True, or --tune-set train_split=... val_split=...')


def follow_parent() -> None:
    """End this process and its data workers when the sweep is gone, however that ended.

    Standard input is a pipe that nobody writes to: it ends when the process that holds its other side does. Otherwise
    the run would go on unseen, and the next sweep would start it a second time.
    """
    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main(argv: list[str] | None = None) -> None:
    """Run one run from the command line."""
    parser = argparse.ArgumentParser(prog='python -m mmlora.apis.sweep_job', description='Repeat one run of a sweep')
    parser.add_argument('folder', help='folder of the run, with its job.json')
    parser.add_argument('--end-with-input', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.end_with_input:
        follow_parent()
    run_job(args.folder)


def _settle(state: Mapping[str, Any]) -> Config:
    cfg = settle_job(Config.fromfile(state['config']), state['options'], state['measure'])
    changed = differences(state['settled'], identity(cfg))
    if changed:
        raise ValueError(f'{state["config"]} has changed since the sweep began ({"; ".join(changed[:5])}): start the '
                         'sweep again, which says what to do')
    return cfg


def _forget_lost(folder: Path) -> None:
    """Remove a pointer to a checkpoint that somebody has deleted with all others: the run begins anew."""
    if not list(folder.glob('*.pth')):
        (folder / POINTER).unlink(missing_ok=True)


def _train(cfg: Config, folder: Path, key: str) -> None:
    cfg = copy.deepcopy(cfg)
    cfg[MARK] = key
    train(cfg, work_dir=str(folder), resume='auto')
    gc.collect()  # The runner is a ring of references, and the test needs the memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finish(folder: Path, checkpoint: Path, measure: str, metrics: Mapping[str, float]) -> None:
    sha256, stat = sha256_of(checkpoint), checkpoint.stat()
    if measure == 'test':
        # As recorded, where numbers that are not finite have become None.
        metrics = next(entry['metrics'] for entry in reversed(check_results(folder))
                       if entry['checkpoint'] == {'name': checkpoint.name, 'sha256': sha256}
                       and not entry['protocol']['tta'] and not entry['protocol']['amp'])
    known = dict(name=checkpoint.name, size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256)
    state = write_state(folder, status=DONE, checkpoint=known, metrics={k: _plain(v) for k, v in metrics.items()})
    problem = doubt(folder, state)
    if problem:
        raise ValueError(f'{folder} has been changed during the test: {problem}')


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, 'tolist') else value


if __name__ == '__main__':
    main()
