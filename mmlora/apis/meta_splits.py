"""Writing the lists of LoRA-Recycle's sets: what ``tools/make_splits.py metasplit`` calls."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..datasets.meta_sets import META_SETS, META_SPLITS, WHOLE, find_meta_set, meta_list


def meta_lists(
    data_root: str | os.PathLike, name: str, out: str | os.PathLike | None = None
) -> dict[Path, str]:
    """Return the lists of a set under the names of the published ones.

    Those of the sets that are tested as a whole are named ``meta_train.csv``, since the published readers open that.

    Args:
        data_root: Folder of the set; with ``name='all'`` what holds the folders of the sets, each of the set's name.
        name: A name of the set, or ``'all'``.
        out: Folder of the lists, with ``name='all'`` of a folder of lists for each set; by default that of the images.

    Returns:
        Content by path.

    Raises:
        ValueError: There is no such set, or a file cannot be used.
        FileNotFoundError: A file or folder is missing, or with ``name='all'`` all are.
    """
    root = Path(data_root).expanduser()
    if name != 'all':
        return _lists(find_meta_set(name).name, root, Path(out or root))
    there = [known for known in META_SETS if (root / known).is_dir()]
    if not there:
        raise FileNotFoundError(f'{str(root)!r} has none of the folders {", ".join(META_SETS)}')
    found: dict[Path, str] = {}
    for known in there:
        found |= _lists(known, root / known, Path(out or root) / known)
    return found


def _lists(name: str, root: Path, out: Path) -> Mapping[Path, str]:
    one = META_SETS[name]
    return {out / f'{META_SPLITS[0] if split == WHOLE else split}.csv':
            meta_list(one.images(root, split), root, one.delimiter) for split in one.splits}
