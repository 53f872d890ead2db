"""Whether the labels of several data sets mean the same, by the names of their classes."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from mmengine.logging import print_log

_SHOWN = 8  # Names that a message lists.


def class_names(dataset: Any) -> tuple[str, ...]:
    """Return the names of a data set's classes, in the order of the labels; empty where it has none.

    Args:
        dataset: A data set without wrappers.
    """
    return tuple(str(name) for name in (getattr(dataset, 'metainfo', None) or {}).get('classes') or ())


def names_problem(loader: str, dataset: Any, other_loader: str, other: Any) -> str | None:
    """Say how the classes of two data sets differ, or None.

    Data sets without names are left alone, and so are two that number the same folders, whatever they call them.

    Args:
        loader: Name of the first one's loader.
        dataset: A data set without wrappers.
        other_loader: Name of the second one's loader.
        other: A data set without wrappers.
    """
    names, others = class_names(dataset), class_names(other)
    folders, other_folders = _folders(dataset), _folders(other)
    if not names or not others or names == others or (folders and folders == other_folders):
        return None
    text = (f'{loader} has the classes {_listed(names)}, {other_loader} {_listed(others)}: the labels do not mean the '
            'same')
    alone = [f'only {place} has {_listed(own)}' for place, own in (
        (loader, [name for name in names if name not in others]),
        (other_loader, [name for name in others if name not in names])) if own]
    if alone and max(len(names), len(others)) > _SHOWN:
        text += f' ({", ".join(alone)})'
    if not folders and not other_folders:
        return f'{text}; set classes=[...] in both'
    for place, part in ((loader, dataset), (other_loader, other)):
        empty = _empty_folders(part)
        if empty:
            text += f'; {_listed(empty)} of {place} has no images: remove it, or fill it'
    if folders and other_folders:
        # `classes` of mmpretrain's CustomDataset renames the folders that there are, and does not number them.
        return f'{text}; give both the same folders, where one may be empty, or read them by lists'
    return f'{text}; folders are numbered by name: set classes=[...] of the list in the order of the folders'


def names_problems(loaders: Iterable[tuple[str, Iterable[Any]]]) -> Iterator[str]:
    """Compare all data sets with the first one that has names, and say how others differ, once for each loader.

    Args:
        loaders: Name of each loader, and its data sets without wrappers.
    """
    reference = None
    for loader, datasets in loaders:
        for dataset in datasets:
            if reference is None:
                reference = (loader, dataset) if class_names(dataset) else None
                continue
            problem = names_problem(loader, dataset, *reference)
            if problem:
                yield problem
                break


def moved_names(names: Sequence[str], trained: Sequence[str]) -> list[str]:
    """Return the names that stand for another label than in training.

    Names that training did not have are left out: they may be other words for the same classes. Of a name that occurs
    twice the first counts.

    Args:
        names: Names of classes, in the order of the labels.
        trained: The same of the training data.
    """
    before, now = ({name: label for label, name in reversed(list(enumerate(own)))} for own in (trained, names))
    return [name for name, label in sorted(now.items(), key=itemgetter(1)) if before.get(name, label) != label]


def trained_names_problem(loader: str, dataset: Any, trained: Sequence[str]) -> str | None:
    """Say which labels of a test set mean another class than those that a checkpoint was trained with, or None.

    A test set may lack the last classes. It may also call classes otherwise, which is logged as a warning.

    Args:
        loader: Name of the loader.
        dataset: A data set without wrappers.
        trained: Names of the classes in the checkpoint; may be empty.
    """
    names, trained = class_names(dataset), tuple(map(str, trained))
    moved = moved_names(names, trained)
    text = f'{loader} has the classes {_listed(names)}, the checkpoint {_listed(trained)}'
    if not moved:
        if trained and names != trained[:len(names)]:
            print_log(f'{text}: the result counts only if these are other names for the same classes.',
                      logger='current', level=logging.WARNING)
        return None
    name = moved[0]
    text += (f': the labels do not mean the same ({name!r} is {names.index(name)} here and was {trained.index(name)} '
             'in training)')
    empty = [name for name in _empty_folders(dataset) if name not in trained]
    if empty:
        text += f'; {_listed(empty)} of {loader} has no images: remove it, or fill it'
    return text + ('; give it the folders of the training data, where one may be empty' if _folders(dataset) else
                   '; set classes=[...] as in training')


def _folders(dataset: Any) -> tuple[str, ...]:
    # A list of images has no numbered folders, even where it was given beside them.
    return () if getattr(dataset, 'ann_file', None) else tuple(getattr(dataset, 'folder_to_idx', None) or ())


def _empty_folders(dataset: Any) -> list[str]:
    folders = _folders(dataset)
    used = set(map(int, dataset.get_gt_labels())) if folders else set()
    return [name for label, name in enumerate(folders) if label not in used]


def _listed(names: Sequence[str]) -> str:
    more = f', ... {len(names)} in all' if len(names) > _SHOWN else ''
    return f'[{", ".join(names[:_SHOWN])}{more}]'
