"""A look at the data of a config before a run: what ``tools/check_data.py CONFIG`` calls."""

import copy
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from .class_names import names_problems
from .data_report import DataReport
from .inspect_data import inspect_dataset, note_equal_content
from .labels import explain_missing_data, head_classes, plain_datasets
from .prepare import LOADERS
from .unknown_types import explain_unknown_types
from .variables import settle_variables

CONSTRUCTION_ERRORS = (ValueError, AssertionError, KeyError, RuntimeError, TypeError)
"""What constructors of data sets raise for options that do not fit, mmpretrain's own among them."""


def check_data(cfg: Config, read_all: bool = False) -> DataReport:
    """Build the data sets of a config and look for what would spoil a run.

    Data sets that cannot be built, missing images, labels outside of the head, classes that differ between the loaders,
    an image that cannot be prepared and images of val or test among the training images are problems.

    Args:
        cfg: The config; it is not changed.
        read_all: Whether to read all images, each file once, through the pipeline; otherwise one of each loader. Files
            of equal content are then noted.

    Returns:
        The report.

    Raises:
        ValueError: The config has no data loader, or refers to a variable that it does not have.
    """
    cfg = copy.deepcopy(cfg)
    settle_variables(cfg)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    report, built = DataReport([], [], []), []
    loaders = [name for name in LOADERS if cfg.get(name)]
    if not loaders:
        raise ValueError(f'the config has none of {", ".join(LOADERS)}')
    num_classes, img_size = head_classes(cfg), _img_size(cfg)
    for name in loaders:
        try:
            with explain_unknown_types(), explain_missing_data(name):
                dataset = cfg[name].dataset
                dataset = DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        except FileNotFoundError as error:
            report.problems.append(str(error))
        except CONSTRUCTION_ERRORS as error:
            report.problems.append(f'{name}: {error}')
        else:
            report.loaders.append(inspect_dataset(name, dataset, report, num_classes=num_classes, img_size=img_size,
                                                  read_all=read_all))
            built.append((name, list(plain_datasets(dataset))))
    if num_classes:  # Without a head labels may have a meaning in each set alone, as in retrieval.
        report.problems += names_problems(built)
    _compare(report)
    if read_all:
        note_equal_content(report.loaders, report)
    return report


def _img_size(cfg: Config) -> tuple[int, ...] | None:
    model = cfg.get('model') or {}
    backbone: Any = (model.get('module') or model).get('backbone')
    size = backbone.get('img_size') if isinstance(backbone, Mapping) else None
    return (size, size) if isinstance(size, int) else tuple(size) if size else None


def _compare(report: DataReport) -> None:
    for first, second in combinations(report.loaders, 2):
        both = first.files & second.files
        if not both:
            continue
        text = f'{len(both)} of the {len(second.files)} images of {second.loader} are in {first.loader} too'
        if first.loader == 'train_dataloader':
            report.problems.append(f'{text}, such as {min(both)}: a leak')
        elif first.files == second.files:
            report.notes.append('val and test are the same images: do not choose a checkpoint with them')
        else:
            report.notes.append(f'{text}: do not choose a checkpoint with them')
