"""Whether the labels of the data fit the model's head, said before the first step."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset

from ..datasets.listed import ListedDataset
from ..datasets.seeded import SeededDataset
from .class_names import names_problems, trained_names_problem

_WRAPPERS = (SeededDataset, RepeatDataset, ClassBalancedDataset, KFoldDataset)


def plain_datasets(dataset: Any) -> Iterator[Any]:
    """Walk through wrappers to the data sets that hold images, each once."""
    if isinstance(dataset, _WRAPPERS):
        yield from plain_datasets(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from plain_datasets(part)
    else:
        yield dataset


def image_infos(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """List what a data set knows of each image, without reading one; nothing where it cannot tell.

    Args:
        dataset: A data set without wrappers.
    """
    if not hasattr(dataset, 'get_data_info'):
        return
    if getattr(dataset, 'serialize_data', True) or not isinstance(getattr(dataset, 'data_list', None), list):
        yield from (dataset.get_data_info(index) for index in range(len(dataset)))
    else:
        yield from dataset.data_list  # `get_data_info` would copy each entry.


def label_classes(info: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the classes of an image, or None where it has no label that names classes."""
    label = info.get('gt_label')
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return (int(label),)
    if isinstance(label, list | tuple | np.ndarray) and np.ndim(label) == 1:
        return tuple(int(index) for index in label)
    return None


def declared_classes(dataset: Any) -> int | None:
    """Return the number of classes that a data set declares, or None."""
    metainfo = getattr(dataset, 'metainfo', None) or {}
    return metainfo.get('num_classes') or len(metainfo.get('classes') or ()) or None


def head_classes(cfg: Config) -> int | None:
    """Return ``num_classes`` of a config's head, or None where the head has none."""
    model = cfg.get('model') or {}
    model = model.get('module') or model  # Test-time augmentation wraps the model.
    head = model.get('head') if isinstance(model, Mapping) else None
    return head.get('num_classes') if isinstance(head, Mapping) else None


def label_problem(dataset: Any, num_classes: int) -> str | None:
    """Say what is wrong with the labels of a data set for a head, or None.

    Args:
        dataset: A data set without wrappers.
        num_classes: Number of outputs of the head.
    """
    name, declared = describe_dataset(dataset), declared_classes(dataset)
    if isinstance(dataset, ListedDataset):
        # Its labels were checked against its own number when it was read.
        if declared > num_classes or (dataset.multi_label and declared != num_classes):
            return (f'{name} has {declared} classes, but the head has num_classes={num_classes}: set '
                    f'model.head.num_classes={declared}')
        return None
    # Folders as classes: mmpretrain numbers them, and a look at a million images takes seconds.
    folders = None if getattr(dataset, 'ann_file', None) else getattr(dataset, 'folder_to_idx', None)
    largest = len(folders or ()) - 1
    for info in () if folders else image_infos(dataset):
        classes = label_classes(info) or ()
        if min(classes, default=0) < 0:
            # A loss may pass over it, or count it from the end.
            return f'{name} has the label {min(classes)} below 0: mend the labels, which are 0..{num_classes - 1}'
        largest = max(largest, *classes, -1)
        width = num_classes if info.get('gt_score') is None else len(info['gt_score'])
        if width != num_classes:
            return (f'{name} has labels for {width} classes, but the head has num_classes={num_classes}: set '
                    f'model.head.num_classes={width}')
    if largest >= num_classes:
        needed = max(largest + 1, declared or 0)
        return (f'{name} has the label {largest}, but the head has num_classes={num_classes}, whose labels are '
                f'0..{num_classes - 1}: set model.head.num_classes={needed}, or mend the labels')
    return None


def describe_dataset(dataset: Any) -> str:
    """Return the type of a data set and the list or folder that it reads."""
    place = getattr(dataset, 'ann_file', None)
    if not place and hasattr(dataset, 'data_prefix'):
        place = getattr(dataset, 'img_prefix', None)
    return type(dataset).__name__ + (f' ({place})' if place else '')


@contextmanager
def explain_missing_data(loader: str) -> Iterator[None]:
    """Say which data loader a missing file or folder belongs to, and which options name it.

    Args:
        loader: Name of the loader in the config.

    Raises:
        FileNotFoundError: Inside the block, a file or folder was missing.
    """
    try:
        yield
    except FileNotFoundError as error:
        text = f'there is no {error.filename!r}' if error.filename else str(error)
        raise FileNotFoundError(
            f'{loader}: {text}. Its place is set by {loader}.dataset.data_root, .ann_file and .data_prefix, in the '
            f'config or with --cfg-options {loader}.dataset.data_root=...'
        ) from error


def check_labels(runner: Runner, *parts: str, trained_classes: Sequence[str] = ()) -> None:
    """Build the data of a run and check that the labels fit the head and mean the same everywhere. No image is read.

    Args:
        runner: The runner.
        *parts: ``'train'``, ``'val'``, ``'test'``; parts that the run does not have are passed over.
        trained_classes: Names of the classes that a checkpoint was trained with; may be empty.

    Raises:
        ValueError: A label is outside of the head, labels of several classes have another width, or names of classes
            differ; a test set may have other names than the checkpoint, but not the same ones in another order.
        FileNotFoundError: A list or folder does not exist; the message names the loader.
    """
    num_classes = head_classes(runner.cfg)
    loaders = []
    for part in parts:
        with explain_missing_data(f'{part}_dataloader'):
            loop = getattr(runner, f'{part}_loop')
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        if dataset is None or num_classes is None:
            continue
        loaders.append((f'{part}_dataloader', list(plain_datasets(dataset))))
        name, datasets = loaders[-1]
        for plain in datasets:
            problem = label_problem(plain, num_classes)
            if problem:
                raise ValueError(f'{name}: {problem}')
            declared = declared_classes(plain)
            if declared and declared < num_classes:
                print_log(f'{name}: {describe_dataset(plain)} has {declared} classes, and the head has '
                          f'num_classes={num_classes}: the others are never right. If that is not meant, set '
                          f'model.head.num_classes={declared}', logger='current', level=logging.WARNING)
            problem = trained_names_problem(name, plain, trained_classes)
            if problem:
                raise ValueError(problem)
    problem = next(names_problems(loaders), None)
    if problem:
        raise ValueError(problem)
