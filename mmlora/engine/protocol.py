"""By what protocol a checkpoint came about, as plain data in its meta: labels of the run, and what selected it.

A number chosen on the images that it is measured on is no test result. Whether that is so cannot be seen from the name
of a file, so training writes down which data its validation used, and testing compares them with its own.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from ..io.adapter_card import shown_paths

# What changes how images are shown to the model or read from disk, but not which they are.
IGNORED = ('pipeline', 'metainfo', 'lazy_init', 'serialize_data', 'max_refetch', 'check_images', 'in_memory')
HALVES = ('base', 'new')
_ENDS = tuple(f'-{half}' for half in HALVES)
LAST, UNKNOWN, NOT_TRAINED = 'last {unit}', 'unknown', 'not trained here'
ON_VALIDATION, ON_TEST = 'validation data', 'TEST DATA'


def plain_data_config(config: Any) -> Any:
    """Return what a data set's config says about which images it holds, as plain data.

    Args:
        config: The config of a data set; wrappers hold others inside. A built data set is named by its class.
    """
    if isinstance(config, Mapping):
        return {str(key): plain_data_config(value) for key, value in config.items() if key not in IGNORED}
    if isinstance(config, (list, tuple)):
        return [plain_data_config(value) for value in config]
    if config is None or isinstance(config, (bool, int, float)):
        return config
    if isinstance(config, (str, os.PathLike)):
        text = os.fspath(config)
        return text.removeprefix('mmpretrain.').removeprefix('mmlora.')
    return getattr(config, '__name__', type(config).__name__)


def fingerprint(dataset: Any) -> str | None:
    """Return a hash of the images of a data set and their labels, whichever way and order they are listed in.

    Args:
        dataset: A built data set.

    Returns:
        The first 16 digits of a SHA-256; None for data sets that list neither files nor images.
    """
    if not hasattr(dataset, 'get_data_info'):
        return None

    @cache
    def real(folder: str) -> str:
        return os.path.realpath(folder)

    rows = []
    for index in range(len(dataset)):
        item = dataset.get_data_info(index)
        if isinstance(item.get('img_path'), (str, os.PathLike)):
            folder, name = os.path.split(os.fspath(item['img_path']))
            image = f'{real(folder)}/{name}'
        elif isinstance(item.get('img'), np.ndarray):
            image = hashlib.sha256(np.ascontiguousarray(item['img']).tobytes()).hexdigest()
        else:
            return None
        label = item.get('gt_label', item.get('gt_score'))
        rows.append(f'{image}\t{np.asarray(label).tolist()}')
    return hashlib.sha256('\n'.join(sorted(rows)).encode()).hexdigest()[:16]


def describe_data(config: Any, dataset: Any, most: int | None = None) -> dict[str, Any]:
    """Say which images a data set holds.

    Args:
        config: Its config.
        dataset: The data set built from it.
        most: Above how many images there is no fingerprint, which looks at each of them.

    Returns:
        ``config``, ``list`` (its annotation file, else its split, else None), ``images`` (their number) and
        ``fingerprint``.
    """
    ann_file = getattr(dataset, 'ann_file', None)
    return dict(
        config=plain_data_config(config),
        list=str(ann_file) if ann_file else _text(getattr(dataset, 'split', None)),
        images=len(dataset),
        fingerprint=fingerprint(dataset) if most is None or len(dataset) <= most else None,
    )


def same_data(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> bool:
    """Return whether two descriptions of :func:`describe_data` mean the same images."""
    if not first or not second:
        return False
    same_images = first.get('fingerprint') is not None and first.get('fingerprint') == second.get('fingerprint')
    if same_images or first['config'] == second['config']:
        return True
    unlisted = None in (first.get('fingerprint'), second.get('fingerprint'))
    return unlisted and first['config'] == shown_paths(second['config'])  # The first may be of an adapter folder.


def inner_dataset(config: Any) -> Mapping[str, Any]:
    """Return the config of the data set inside wrappers."""
    while isinstance(config, Mapping) and isinstance(config.get('dataset'), Mapping):
        config = config['dataset']
    return config if isinstance(config, Mapping) else {}


def describe_run(cfg: Config) -> dict[str, Any]:
    """Return the labels of a run: ``method``, ``dataset_name``, ``config``, ``shot``, ``split``.

    Where the config has no variable ``method`` or ``dataset_name``, the name of its file and the data set's type and
    folder stand in. ``shot`` is a number, ``'full'``, or None where the config does not say; for data sets that have
    shots but are told to read another list or split, it is the name of that. ``split`` is the number of a few-shot
    list, or None.

    Args:
        cfg: A whole config, whose variables are settled.
    """
    train = _main_data(cfg)
    stem = Path(cfg.filename).stem if cfg.filename else None
    shot, split = _shot_and_split(cfg, train if cfg.get('train_dataloader') else {})
    return dict(
        method=_text(cfg.get('method')) or stem,
        dataset_name=name_data(cfg, train),
        config=f'{stem}.py' if stem else None,
        shot=shot,
        split=split,
    )


def name_data(cfg: Config, dataset: Any) -> str:
    """Return the name of a data set of a run, with the half of the classes that it has, as in ``'dtd-base'``.

    Args:
        cfg: A whole config, whose ``dataset_name`` is that of all classes; else type and folder of the data stand in.
        dataset: The config of the data set; ``subset`` may be ``'base'`` or ``'new'``.
    """
    train = _main_data(cfg)
    root, kind = Path(str(train.get('data_root') or '')).name, plain_data_config(train.get('type')) or 'data'
    name = _text(cfg.get('dataset_name')) or (f'{kind}-{root}' if root else kind)
    subset = inner_dataset(dataset).get('subset')
    if subset not in HALVES:
        return name
    return f'{next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)}-{subset}'


def describe_selection(
    protocol: Mapping[str, Any] | None, test: Mapping[str, Any], of_run: bool = True
) -> dict[str, Any]:
    """Say how a checkpoint was chosen among those of its run.

    Args:
        protocol: ``meta['mmlora']['protocol']`` of the checkpoint; None for checkpoints that say nothing.
        test: The test data, as described by :func:`describe_data`.
        of_run: Whether any training run has written the checkpoint, as far as its meta tells; plain weights, such as
            those that are tested zero-shot, are ``'not trained here'``.

    Returns:
        ``selection``: ``'last epoch'``, ``'epoch 12 of 20'``, ``'best accuracy/top1 on validation data'``, ``'best
        accuracy/top1 on TEST DATA'``, ``'early stopping by ...'`` on either (iterations alike) or ``'unknown'``,
        followed by how the checkpoint that the run started from was chosen, if any; ``at``, as in ``'epoch 3 of 20'``;
        ``on_test``, whether the test data chose it or the one that the run started from; and the ``validation`` data
        where they chose it.
    """
    if not {'unit', 'step', 'total'} <= set(protocol or ()):  # None, or of weights that were not trained here.
        return dict(selection=UNKNOWN if protocol or of_run else NOT_TRAINED, at=None, on_test=None, validation=None)
    at = '{unit} {step} of {total}'.format(**protocol)
    last = protocol['step'] == protocol['total']
    best, stopping = protocol.get('selected_by'), None if last else protocol.get('early_stopping')
    chosen = best is not None or stopping is not None
    on_test = chosen and same_data(protocol.get('validation'), test)
    if chosen:
        how = f'early stopping by {stopping}' if best is None else f'best {best}'
        selection = f'{how} on {ON_TEST if on_test else ON_VALIDATION}'
    else:
        selection = LAST.format(**protocol) if last else at
    start = protocol.get('started_from')
    if start:
        before = describe_selection(start, test)
        selection += f', after {start.get("config") or "weights from elsewhere"}: {before["selection"]}'
        on_test = on_test or before['on_test']
    return dict(selection=selection, at=at, on_test=on_test, validation=protocol.get('validation') if chosen else None)


def _main_data(cfg: Config) -> Mapping[str, Any]:
    loader = cfg.get('train_dataloader') or cfg.get('test_dataloader') or {}
    return inner_dataset(loader.get('dataset') if isinstance(loader, Mapping) else None)


def _shot_and_split(cfg: Config, train: Mapping[str, Any]) -> tuple[Any, Any]:
    if 'n_shot' in train:  # The data set knows better than the variables, to which it need not refer.
        listed = train.get('ann_file') or (train.get('index_file') if train['n_shot'] is None else None)
        if listed:
            return Path(listed).stem, None
        if train.get('split', 'train') != 'train':
            return train['split'], None
        shot, split = train['n_shot'], train.get('exp', cfg.get('split'))
    elif 'shot' in cfg:
        shot, split = cfg.shot, cfg.get('split')
    else:
        return None, cfg.get('split')
    return ('full', None) if shot is None else (shot, split)


def _text(value: Any) -> str | None:
    return str(value) if value else None
