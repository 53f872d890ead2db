"""VTAB-1k from list files: 19 sets of 1000 training images (Zhai et al., arXiv 1910.04867).

The layout is that of the usual preparation script: ``<root>/<set>/{train800,val200,train800val200,test}.txt`` with
lines ``images/<split>/000000.jpg <class index>``, and few-shot lists in ``<root>/<set>/few_shot_exps/``.
"""

from pathlib import Path
from typing import Any

from mmlora.registry import DATASETS, register

from .listed import ListedDataset, check_shot
from .vtab_sets import VTABSet, find_vtab_set

LISTS = ('train800', 'val200', 'train800val200', 'test')
SPLITS = ('train', 'val', *LISTS)


def find_vtab_folder(data_root: str | Path, vtab_set: VTABSet) -> Path:
    """Find the folder of a set under any of its names.

    Args:
        data_root: Folder of the sets.
        vtab_set: The set.

    Raises:
        FileNotFoundError: There is no such folder; the message lists what there is.
        ValueError: Several of the names exist, so that it is open which one is meant.
    """
    root = Path(data_root).expanduser()
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else None
    found = [name for name in vtab_set.folders if name in (there or ())]
    if len(found) > 1:
        raise ValueError(f'{str(root)!r} has the folders {" and ".join(found)}, which are names of one set: keep one, '
                         'or set data_root to a folder that has one')
    if not found:
        has = 'does not exist' if there is None else f'has {", ".join(there) or "no folders"}'
        raise FileNotFoundError(f'no folder {" or ".join(vtab_set.folders)} in {str(root)!r}, which {has}: set '
                                'data_root to the folder that holds the sets; docs/datasets.md tells how to get them')
    return root / found[0]


def vtab_few_shot_list(n_shot: int, exp: int) -> str:
    """Return the name of a few-shot list, below the folder of its set."""
    return f'few_shot_exps/train_{n_shot}-shot_exp{exp}.txt'


@register(DATASETS)
class VTAB1k(ListedDataset):
    """A set of VTAB-1k.

    Args:
        name: The set, under any of its names in :data:`mmlora.datasets.VTAB_SETS`, such as ``'eurosat'``.
        split: ``'train800'``, ``'val200'``, ``'train800val200'`` and ``'test'`` read the list of that name. ``'train'``
            is train800val200, or with ``n_shot`` the few-shot list. ``'val'`` is train800val200 without the images of
            the few-shot list, and needs ``n_shot``.
        n_shot: Images per class of the few-shot list; None for all images. The splits that are named after a list
            ignore it.
        exp: Number of the few-shot list, from 1.
        data_root: Folder of the sets.
        ann_file: A list that is read instead of the one that the arguments above stand for, relative to the folder of
            the set; so is ``data_prefix``, the folder of the images.
        check_images: Whether to check at construction that all images exist.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...).

    Raises:
        ValueError: An unknown set or split, numbers out of range, two folders of one set, or a list that cannot be
            used; the message quotes it.
        FileNotFoundError: The folder, the list or images do not exist.
    """

    def __init__(
        self,
        name: str,
        split: str = 'train',
        n_shot: int | None = None,
        exp: int = 1,
        data_root: str = 'data/vtab-1k',
        ann_file: str = '',
        check_images: bool = True,
        **kwargs: Any,
    ) -> None:
        vtab_set = find_vtab_set(name)
        if split not in SPLITS:
            raise ValueError(f'VTAB1k has the splits {", ".join(SPLITS)}, not {split!r}')
        check_shot(n_shot, exp)
        self.split, self.n_shot, self.exp = split, n_shot, exp
        folder = find_vtab_folder(data_root, vtab_set)
        without = None
        if not ann_file and split in LISTS:
            ann_file = f'{split}.txt'
        elif not ann_file and split == 'train':
            ann_file = 'train800val200.txt' if n_shot is None else vtab_few_shot_list(n_shot, exp)
        elif not ann_file:
            if n_shot is None:
                raise ValueError("split='val' is what a few-shot list leaves of train800val200 and needs n_shot: "
                                 "without it, train on split='train800' and validate on split='val200'")
            ann_file, without = 'train800val200.txt', str(folder / vtab_few_shot_list(n_shot, exp))
        for path in (folder / ann_file, without):
            self._check_list(path, vtab_set, data_root)
        metainfo = dict(kwargs.pop('metainfo', None) or {})
        if vtab_set.classes:
            metainfo.setdefault('classes', vtab_set.classes)
        super().__init__(
            ann_file=str(folder / ann_file),
            num_classes=vtab_set.num_classes,
            without=without,
            check_images=check_images,
            metainfo=metainfo,
            data_prefix=str(folder / kwargs.pop('data_prefix', '')),
            **kwargs,
        )
        # Not given to the parent, which takes text in the meta information for the name of a file.
        self._metainfo.update(dataset=vtab_set.name, group=vtab_set.group)

    def _check_list(self, path: str | Path | None, vtab_set: VTABSet, data_root: str) -> None:
        if path is None or Path(path).is_file():
            return
        advice = 'docs/datasets.md tells how to get the lists'
        if 'few_shot_exps' in Path(path).parts:
            advice = (f'make it with: python tools/make_splits.py fewshot --dataset vtab1k --data-root {data_root} '
                      f'--name {vtab_set.name} --shots {self.n_shot} --exps {max(5, self.exp)}')
        raise FileNotFoundError(f'VTAB-1k {vtab_set.name}: there is no list {str(path)!r}; {advice}')
