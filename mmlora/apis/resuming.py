"""Where a run goes on: which checkpoint, and with which seed."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import sync_random_seed
from mmengine.logging import print_log

from ..io.checkpoint import load_checkpoint

POINTER = 'last_checkpoint'
NEEDED = ('state_dict', 'meta', 'message_hub', 'optimizer')


def find_resumable(work_dir: str | os.PathLike) -> tuple[str, dict[str, Any]] | None:
    """Find the newest good checkpoint of a run.

    The one to which ``last_checkpoint`` points comes first. When it cannot be read, the other checkpoints of the folder
    are tried, newest first, and a warning names what was lost.

    Args:
        work_dir: The run's folder; it may have been moved since.

    Returns:
        The path and the checkpoint, or None where nothing has been saved yet.

    Raises:
        ValueError: There are checkpoints, but none is good.
    """
    folder = Path(work_dir)
    failures: list[str] = []
    pointed = _pointed(folder, failures)
    for path in dict.fromkeys([*([pointed] if pointed else []), *_others(folder)]):
        try:
            checkpoint = load_checkpoint(path)
        except (ValueError, FileNotFoundError, RuntimeError) as error:
            failures.append(f'{path}: {error}')
            continue
        lacking = [] if path == pointed else [key for key in NEEDED if key not in checkpoint]
        if lacking:
            continue
        if failures:
            print_log('The newest checkpoint cannot be used:\n  ' + '\n  '.join(failures)
                      + f'\nThe run falls back to {path}; what was trained after it is lost.',
                      logger='current', level=logging.WARNING)
        return str(path), checkpoint
    if failures:
        raise ValueError(f'no checkpoint in {folder} can be resumed; delete the folder to start anew. '
                         + '; '.join(failures))
    return None


def settle_resume(cfg: Config, resume: str | None = None) -> dict[str, Any] | None:
    """Decide what a run goes on from and write it into the config, in place.

    Afterwards ``cfg.resume`` is true only where ``cfg.load_from`` names the checkpoint to resume. ``'auto'`` with
    nothing saved yet starts afresh, from the config's own ``load_from``.

    Args:
        cfg: The config; its ``work_dir`` is searched.
        resume: ``'auto'``, a path, or None for what the config says.

    Returns:
        The meta of the checkpoint that is resumed, or None.

    Raises:
        FileNotFoundError: The named checkpoint does not exist.
        ValueError: It cannot be read or holds no state of a training run.
    """
    if resume is None and cfg.get('resume'):
        resume = cfg.get('load_from') or 'auto'
    found = None
    if resume == 'auto':
        found = find_resumable(cfg.work_dir)
        if found is None:
            print_log(f'Nothing to resume in {cfg.work_dir} yet; the run starts afresh.', logger='current')
    elif resume is not None:
        found = resume, load_checkpoint(resume)
    cfg.resume = found is not None
    if found is None:
        return None
    cfg.load_from, checkpoint = found
    meta = checkpoint.get('meta')
    lacking = [key for key in NEEDED if key not in checkpoint]
    if lacking or not isinstance(meta, dict) or not {'epoch', 'iter'} <= set(meta):
        raise ValueError(f'{cfg.load_from} holds weights but not the whole state of a training run (it lacks '
                         f'{", ".join(lacking) or "epoch and iter in meta"}; best_* files are of that kind), so '
                         'nothing can be resumed from it; to start from its weights, set load_from in the config and '
                         'leave out --resume')
    return meta


def settle_seed(cfg: Config, meta: dict[str, Any] | None = None) -> int:
    """Fix the run's seed and write it into the config: that of the resumed run, else as given, else a fresh one.

    In a distributed run the process group must exist, so that all processes draw the same seed.

    Args:
        cfg: The config; ``randomness.seed`` is set.
        meta: The meta of the resumed checkpoint.

    Returns:
        The seed.

    Raises:
        ValueError: A data set draws its images by the seed of the config, and the resumed run has another.
    """
    randomness = dict(cfg.get('randomness') or {})
    seed, resumed = randomness.get('seed'), (meta or {}).get('seed')
    if resumed is not None:
        drawn = (cfg.get('settled_variables') or {}).get('seed')
        if drawn not in (None, resumed):
            raise ValueError(f'the data set draws its images by randomness.seed={drawn}, but the run that goes on has '
                             f'the seed {resumed}: set randomness.seed={resumed}')
        if seed not in (None, resumed):
            print_log(f'The run goes on with its seed {resumed}; the {seed} of the config is not used.',
                      logger='current', level=logging.WARNING)
        seed = resumed
    if seed is None:
        seed = sync_random_seed()
    cfg.randomness = {**randomness, 'seed': int(seed)}
    return int(seed)


def _pointed(folder: Path, failures: list[str]) -> Path | None:
    pointer = folder / POINTER
    if not pointer.is_file():
        return None
    path = Path(pointer.read_text(encoding='utf-8').strip())
    moved = folder / path.name
    if not path.is_file() and moved.is_file():
        return moved
    if not path.is_file():
        failures.append(f'{path}, named by {pointer}, does not exist')
        return None
    return path


def _others(folder: Path) -> Iterator[Path]:
    files = [path for path in folder.glob('*.pth') if path.is_file() and not path.name.startswith('best_')]
    yield from sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)
