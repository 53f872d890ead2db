"""Writing which images of a set of CoOp a few-shot run has: what ``tools/make_splits.py coop`` calls."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..datasets.coop_files import read_coop
from ..datasets.coop_sets import COOP_SETS, find_coop_folder, find_coop_set
from ..datasets.few_shot_rules import SAMPLINGS
from ..datasets.index_files import format_index_file


def index_file_name(sampling: str, n_shot: int, seed: int) -> str:
    """Return the name of an index file below the folder of its set."""
    return f'few_shot/{sampling}/shot_{n_shot}-seed_{seed}.json'


def index_files(
    data_root: str | os.PathLike,
    name: str,
    shots: Sequence[int],
    seeds: Sequence[int],
    sampling: str,
    out: str | os.PathLike | None = None,
) -> dict[Path, str]:
    """Draw the images of a set, or of all sets that are there.

    Args:
        data_root: Folder of the sets.
        name: A name of the set, or ``'all'``.
        shots: Numbers of images per class.
        seeds: Seeds of the draws.
        sampling: Whose draw, ``'coop'`` or ``'clip_lora'``.
        out: Folder in which each set gets a folder of files; by default ``data_root``.

    Returns:
        The content by path; ImageNet's val is part of train, or is left out where CoOp draws none.

    Raises:
        ValueError: An argument is out of range, or a file of the set cannot be used.
        FileNotFoundError: A folder or file is missing.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f'sampling={sampling!r} must be one of {", ".join(map(repr, SAMPLINGS))}')
    if min(shots) < 1 or min(seeds) < 0:
        raise ValueError(f'shots={list(shots)} must be at least 1, and seeds={list(seeds)} at least 0')
    root, texts = Path(data_root).expanduser(), {}
    sets = list(COOP_SETS.values()) if name == 'all' else [find_coop_set(name)]
    if sets[0].name not in COOP_SETS:
        raise ValueError(f'{sets[0].name} is for tests alone: choose from {", ".join(COOP_SETS)}')
    for coop_set in sets:
        try:
            folder = find_coop_folder(root, coop_set)
        except FileNotFoundError:
            if name != 'all':
                raise
            continue
        files = read_coop(folder, coop_set)
        if 'train' not in files.splits:
            raise FileNotFoundError(f'{coop_set.title}: has no training images in {str(folder)!r}, from which to draw')
        train = files.splits['train']()
        val = files.splits['val']() if 'val' in files.splits else None
        lists = dict(train=train, val=train if val is None else val)
        target = Path(out) / folder.name if out else folder
        for n_shot in shots:
            for seed in seeds:
                drawn = zip(('train', 'val'), SAMPLINGS[sampling](train, val, n_shot, seed), strict=True)
                chosen = {split: images for split, images in drawn if images is not None}
                about = dict(dataset=coop_set.name, sampling=sampling, n_shot=n_shot, seed=seed)
                texts[target / index_file_name(sampling, n_shot, seed)] = format_index_file(about, lists, chosen)
    if not texts:
        raise FileNotFoundError(f'{str(root)!r} has no folder of a set of CoOp')
    return texts
