"""A look at the data of a config before a run: what ``tools/check_data.py`` calls."""

import copy
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..datasets.list_files import missing_images
from .class_names import names_problems
from .labels import (
    declared_classes,
    describe_dataset,
    explain_missing_data,
    head_classes,
    image_infos,
    label_classes,
    label_problem,
    plain_datasets,
)
from .prepare import LOADERS
from .prepared_images import prepare_images
from .unknown_types import explain_unknown_types
from .variables import settle_variables

_SHOWN = 5  # Names that a line lists.


@dataclass
class LoaderReport:
    """What the data of one loader is.

    Args:
        loader: Name of the loader in the config.
        sources: Types of the data sets, with the lists or folders that they read.
        images: Number of samples, repeated ones included.
        files: The image files; empty where the data set draws or holds its images.
        repeated: How many samples repeat a file.
        per_class: Number of samples by class.
        num_classes: Number of classes that the data sets declare, else None.
        names: Names of the classes; may be empty.
        multi_label: Whether an image may have any number of classes.
        without_class: Images of a multi-label set that have no class.
        unlabelled: Samples that have no label.
        shape: Shape of the first prepared image, or None where none can be prepared.
        read: Number of images that were prepared.
    """

    loader: str
    sources: list[str]
    images: int = 0
    files: set[str] = field(default_factory=set)
    repeated: int = 0
    per_class: Counter = field(default_factory=Counter)
    num_classes: int | None = None
    names: tuple[str, ...] = ()
    multi_label: bool = False
    without_class: int = 0
    unlabelled: int = 0
    shape: tuple[int, ...] | None = None
    read: int = 0

    @property
    def empty_classes(self) -> list[int]:
        """Classes without a sample."""
        return [label for label in range(self.num_classes or 0) if not self.per_class[label]]

    def lines(self) -> Iterator[str]:
        """Describe the loader, one line a fact."""
        yield f'{self.loader}: {", ".join(self.sources)}'
        yield f'  images: {self.images}' + (f', of which {self.repeated} repeat a file' if self.repeated else '')
        if self.unlabelled:
            yield f'  without a label: {self.unlabelled}'
        if self.per_class or self.without_class:
            yield from self._label_lines()
        if self.shape:
            images = 'one image was' if self.read == 1 else f'{self.read} images were'
            yield f'  prepared image: {_sides(self.shape)} ({images} read)'

    def _label_lines(self) -> Iterator[str]:
        counts = [self.per_class[label] for label in range(self.num_classes)] if self.num_classes else list(
            self.per_class.values()) or [0]
        yield (f'  classes: {len(counts)}, images of each: at least {min(counts)}, median '
               f'{statistics.median(counts):g}, at most {max(counts)}')
        if self.multi_label:
            mean = sum(counts) / self.images
            yield f'  labels of an image: {mean:.2f} on average, none in {self.without_class} images'
        empty = self.empty_classes
        if empty:
            shown = ', '.join(self.names[label] if self.names else str(label) for label in empty[:_SHOWN])
            yield f'  classes without an image: {len(empty)} ({shown}{", ..." if len(empty) > _SHOWN else ""})'


@dataclass
class DataReport:
    """What the data of a config is, and what is wrong with it.

    Args:
        loaders: A report for each loader whose data can be read.
        problems: What has to be mended.
        notes: What has to be known.
    """

    loaders: list[LoaderReport]
    problems: list[str]
    notes: list[str]

    def __str__(self) -> str:
        lines = [line for report in self.loaders for line in report.lines()]
        lines += [f'note: {note}' for note in self.notes] + [f'problem: {problem}' for problem in self.problems]
        return '\n'.join(lines if self.problems else [*lines, 'no problem found'])


def check_data(cfg: Config, read_all: bool = False) -> DataReport:
    """Build the data sets of a config and look for what would spoil a run.

    Data sets that cannot be built, missing images, labels outside of the head, classes that differ between the loaders,
    an image that cannot be prepared and images of val or test among the training images are problems.

    Args:
        cfg: The config; it is not changed.
        read_all: Whether to read all images, each file once, through the pipeline; otherwise one of each loader.

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
    for name in loaders:
        try:
            with explain_unknown_types(), explain_missing_data(name):
                dataset = cfg[name].dataset
                dataset = DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        except FileNotFoundError as error:
            report.problems.append(str(error))
        except (ValueError, AssertionError, KeyError, RuntimeError, TypeError) as error:
            # What constructors raise for options that do not fit, mmpretrain's own among them.
            report.problems.append(f'{name}: {error}')
        else:
            report.loaders.append(_inspect(name, dataset, cfg, report, read_all))
            built.append((name, list(plain_datasets(dataset))))
    if head_classes(cfg):  # Without a head labels may have a meaning in each set alone, as in retrieval.
        report.problems += names_problems(built)
    _compare(report)
    return report


def _inspect(name: str, dataset: Any, cfg: Config, report: DataReport, read_all: bool) -> LoaderReport:
    plain, num_classes = list(plain_datasets(dataset)), head_classes(cfg)
    own = LoaderReport(name, [describe_dataset(part) for part in plain])
    for part in plain:
        _count(part, own)
        problem = label_problem(part, num_classes) if num_classes else None
        if problem:
            report.problems.append(f'{name}: {problem}')
        elif num_classes and own.num_classes not in (None, num_classes):
            report.notes.append(f'{name}: {describe_dataset(part)} has {own.num_classes} classes, and '
                                f'model.head.num_classes={num_classes} has outputs to spare')
    local = sorted(path for path in own.files if '://' not in path)
    missing = missing_images('', local)
    if missing:
        more = ', ...' if len(missing) > _SHOWN else ''
        report.problems.append(f'{name}: {len(missing)} of {len(local)} images are missing: '
                               f'{", ".join(missing[:_SHOWN])}{more}')
    elif len(dataset):
        _read(own, plain, cfg, report, read_all)
    else:
        report.problems.append(f'{name}: {", ".join(own.sources)} has no images')
    return own


def _count(dataset: Any, own: LoaderReport) -> None:
    own.num_classes = declared_classes(dataset) or own.num_classes
    own.names = tuple((getattr(dataset, 'metainfo', None) or {}).get('classes') or own.names)
    own.images += len(dataset)
    real = cache(os.path.realpath)
    for info in image_infos(dataset):
        classes = label_classes(info)
        own.per_class.update(classes or ())
        own.unlabelled += classes is None
        own.multi_label |= classes is not None and np.ndim(info['gt_label']) == 1
        own.without_class += classes == ()
        path = info.get('img_path')
        if isinstance(path, str):
            folder, name = os.path.split(path)
            key = path if '://' in path else f'{real(folder)}/{name}'.replace(os.sep, '/')
            own.repeated += key in own.files
            own.files.add(key)


def _read(own: LoaderReport, plain: list[Any], cfg: Config, report: DataReport, read_all: bool) -> None:
    prepared = prepare_images(plain, read_all)
    own.read, own.shape = prepared.read, next(iter(prepared.shapes), None)
    if not read_all:
        report.problems += [f'{own.loader}: its first image cannot be prepared: {path}: {error}'
                            for path, error in prepared.failed.items()]
    elif prepared.failed:
        report.problems.append(f'{own.loader}: {len(prepared.failed)} images cannot be prepared:' + ''.join(
            f'\n  {path}: {error}' for path, error in prepared.failed.items()))
    if len(prepared.shapes) > 1:
        report.notes.append(f'{own.loader}: prepared images have {len(prepared.shapes)} sizes, such as '
                            f'{" and ".join(map(_sides, prepared.shapes[:2]))}, and a batch needs one')
    size = _img_size(cfg)
    if own.shape and size and own.shape[-2:] != size:
        report.notes.append(f'{own.loader}: the prepared image is {_sides(own.shape[-2:])}, and '
                            f'model.backbone.img_size says {_sides(size)}')


def _sides(shape: tuple[int, ...]) -> str:
    return ' x '.join(map(str, shape))


def _img_size(cfg: Config) -> tuple[int, ...] | None:
    model = cfg.get('model') or {}
    backbone = (model.get('module') or model).get('backbone')
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
