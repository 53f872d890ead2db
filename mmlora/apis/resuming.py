"""Where a run goes on: which checkpoint, and with which seed."""

import logging
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import sync_random_seed
from mmengine.logging import print_log

from ..io.checkpoint import load_checkpoint

POINTER = 'last_checkpoint'
PREVIOUS = 'previous'
NEEDED = ('state_dict', 'meta', 'message_hub', 'optimizer')


def find_resumable(work_dir: str | os.PathLike, previous: bool = False) -> tuple[str, dict[str, Any]] | None:
    """Find the newest checkpoint of a run: that to which ``last_checkpoint`` points.

    A kill between the first checkpoint and the pointer leaves a folder without pointer: then the checkpoint of the most
    iterations is the newest, and files that cannot be read are passed over with a warning.

    Args:
        work_dir: The run's folder; where it has been moved or copied since, the files in it count, not those where it
            was.
        previous: Whether a newest one that is damaged or gone gives way to the good one of the most iterations, with a
            warning that says what is lost.

    Returns:
        The path and the checkpoint, or None where nothing has been saved yet.

    Raises:
        ValueError: The newest checkpoint is damaged or gone, or with ``previous`` all of them are.
    """
    folder = Path(work_dir)
    failures: dict[Path, str] = {}
    newest = _pointed(folder, failures)
    if newest is not None:
        checkpoint = _read(newest, failures)
        if checkpoint is not None:
            return str(newest), checkpoint
    lacking = bool(failures)
    path, checkpoint = _best_other(folder, newest, failures)
    if not failures:
        return (str(path), checkpoint) if path else None
    said = '\n  '.join(f'{bad}: {reason}' for bad, reason in failures.items())
    if path is None:
        raise ValueError(f'no checkpoint in {folder} can be resumed; move the folder away to start anew.\n  {said}')
    if not lacking:
        print_log(f'These files in {folder} cannot be read and are passed over:\n  {said}\nThe run goes on from '
                  f'{path}.', logger='current', level=logging.WARNING)
        return str(path), checkpoint
    lost = f'{path}, of iteration {checkpoint["meta"]["iter"]}; what was trained after it is lost'
    if not previous:
        bad = ' and '.join(map(str, dict.fromkeys([next(iter(failures)), folder / POINTER])))
        # Without pointer, only the folder itself is searched.
        delete = f' Where a command has no such option, as a sweep has none, delete {bad}: it then does the same.'
        raise ValueError(f'the newest checkpoint in {folder} cannot be resumed:\n  {said}\nPut a whole copy of it in '
                         f'its place, or give --resume previous, which goes on from the last good one, {lost}.'
                         f'{delete if path.parent == folder else ""}')
    print_log(f'The newest checkpoint cannot be used:\n  {said}\nAs asked for, the run goes on from the last good one, '
              f'{lost}.', logger='current', level=logging.WARNING)
    return str(path), checkpoint


def settle_resume(cfg: Config, resume: str | None = None) -> dict[str, Any] | None:
    """Decide what a run goes on from and write it into the config, in place.

    Afterwards ``cfg.resume`` is true only where ``cfg.load_from`` names the checkpoint to resume. ``'auto'`` with
    nothing saved yet starts afresh, from the config's own ``load_from``.

    Args:
        cfg: The config; its ``work_dir`` is searched.
        resume: ``'auto'``, ``'previous'``, a path, or None for what the config says: its ``resume`` may be
            ``'previous'``, too.

    Returns:
        The meta of the checkpoint that is resumed, or None.

    Raises:
        FileNotFoundError: The named checkpoint does not exist.
        ValueError: It cannot be read or holds no state of a training run, or the newest one is damaged or gone.
    """
    if resume is None and cfg.get('resume'):
        resume = PREVIOUS if cfg.resume == PREVIOUS else cfg.get('load_from') or 'auto'
    found = None
    if resume in ('auto', PREVIOUS):
        found = find_resumable(cfg.work_dir, resume == PREVIOUS)
        if found is None:
            print_log(f'Nothing to resume in {cfg.work_dir} yet; the run starts afresh.', logger='current')
    elif resume is not None:
        found = resume, load_checkpoint(resume)
    cfg.resume = found is not None
    if found is None:
        return None
    cfg.load_from, checkpoint = found
    if not _is_state(checkpoint):
        lacking = [key for key in NEEDED if key not in checkpoint]
        raise ValueError(f'{cfg.load_from} holds weights but not the whole state of a training run (it lacks '
                         f'{", ".join(lacking) or "epoch and iter in meta"}; best_* files are of that kind), so '
                         'nothing can be resumed from it; to start from its weights, set load_from in the config and '
                         'leave out --resume')
    return checkpoint['meta']


def settle_seed(cfg: Config, meta: dict[str, Any] | None = None) -> int:
    """Fix the run's seed and write it into the config: that of the resumed run, else as given, else a fresh one.

    Where ``randomness.deterministic`` asks for deterministic kernels, cuBLAS is told to be able to.

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
    if randomness.get('deterministic'):
        # Without it the first product of matrices on CUDA is an error. It is read when CUDA's library starts.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    return int(seed)


def read_pointer(folder: str | os.PathLike) -> Path | None:
    """Return what ``last_checkpoint`` of a folder names, as it was written; None without one.

    Raises:
        ValueError: It names nothing.
    """
    pointer = Path(folder) / POINTER
    if not pointer.is_file():
        return None
    text = pointer.read_bytes().decode(errors='replace').strip()
    if not Path(text).name or '\0' in text or '\ufffd' in text:
        raise ValueError(f'{pointer} is damaged: it should name a checkpoint, and has {text[:60]!r}')
    return Path(text)


def _pointed(folder: Path, failures: dict[Path, str]) -> Path | None:
    """Return what the pointer of a folder names, in that folder if it is there."""
    try:
        path = read_pointer(folder)
    except ValueError as error:
        failures[folder / POINTER] = str(error)
        return None
    if path is None:
        return None
    parts = path.relative_to(path.anchor).parts  # Names of checkpoints may have folders.
    for start in range(len(parts)):
        inside = folder.joinpath(*parts[start:])
        if os.path.isfile(inside):  # False, too, where both together are too long for a path.
            return inside
    # Checkpoints may go to a folder without pointer, elsewhere. One with a pointer is that of another run.
    return folder / path.name if (path.parent / POINTER).is_file() else path


def _read(path: Path, failures: dict[Path, str]) -> dict[str, Any] | None:
    try:
        return load_checkpoint(path)
    except (ValueError, OSError, RuntimeError) as error:
        failures[path] = str(error)
        return None


def _best_other(
    folder: Path, known: Path | None, failures: dict[Path, str]
) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the state of a run of the most iterations, of those beside a known one."""
    found: tuple[Path | None, dict[str, Any] | None] = None, None
    if known is not None and known.parent.name and known.parent.is_dir():
        folder = known.parent
    for path in sorted(folder.glob('*.pth')):
        if path.name.startswith('best_') or not path.is_file() or path == known:
            continue
        checkpoint = _read(path, failures)
        if checkpoint is None or not _is_state(checkpoint):
            continue
        if found[1] is None or checkpoint['meta']['iter'] > found[1]['meta']['iter']:
            found = path, checkpoint
    return found


def _is_state(checkpoint: dict[str, Any]) -> bool:
    meta = checkpoint.get('meta')
    return set(NEEDED) <= set(checkpoint) and isinstance(meta, dict) and {'epoch', 'iter'} <= set(meta)
