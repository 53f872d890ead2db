"""A look at a data set without a config: what ``tools/check_data.py DATASET ROOT`` calls."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset

from ..datasets.list_dataset import SUFFIXES, ListDataset
from ..datasets.list_files import read_list
from .check_data import CONSTRUCTION_ERRORS
from .class_names import names_problems
from .data_report import DataReport, LoaderReport
from .inspect_data import inspect_dataset, note_equal_content
from .known_data import LOOK, Family, KnownSet, find_family
from .labels import image_infos, label_classes, plain_datasets
from .splits import IMAGE_SUFFIXES

_SPLITS = ('train', 'val', 'test')


def check_known(
    family: str,
    root: str | Path | None = None,
    names: Sequence[str] = (),
    *,
    read_all: bool = False,
    **options: Any,
) -> DataReport:
    """Look at published data sets: counts against the official ones, classes, missing files, overlap between splits.

    Args:
        family: ``'vtab1k'``, ``'medfmc'``, ``'fgvc'``, ``'coop'``, ``'digits'`` or ``'glyphs'``.
        root: Folder of the sets; by default the usual one.
        names: The sets; by default all that are there.
        read_all: Whether to read all images; otherwise one of each split. Files of equal content are then noted.
        **options: Options of the data sets: ``layout`` of FGVC.

    Returns:
        The report.

    Raises:
        ValueError: There is no such family or set, or it does not take an option.
        FileNotFoundError: A set that is asked for is not there, or none is.
    """
    init_default_scope('mmpretrain')
    known_family = find_family(family)
    if root is not None and not known_family.root:
        raise ValueError(f'{known_family.name} comes with mmlora and has no folder: leave out {str(root)!r}')
    place = Path(root or known_family.root).expanduser()
    report = DataReport([], [], [])
    for known in _choose(known_family, place, names, report):
        unknown = [name for name, value in options.items() if value is not None and name not in known.options]
        if unknown:
            raise ValueError(f'{known_family.name} has no option {unknown[0]!r}')
        given = {name: value for name, value in options.items() if value is not None}
        _check_set(known, place, given, read_all, report)
    return report


def check_lists(
    paths: Sequence[str | Path],
    *,
    classes: Sequence[str] = (),
    num_classes: int | None = None,
    multi_label: bool = False,
    columns: Sequence[str] = ('image', 'label'),
    image_root: str | Path | None = None,
    read_all: bool = False,
) -> DataReport:
    """Look at lists of images (``.txt``, ``.csv``, ``.json``); an image in two of them is a problem.

    Args:
        paths: The lists.
        classes: Names of the classes.
        num_classes: Number of classes; text lists with one label each need neither, and have then as many as the
            largest label says.
        multi_label: Whether images have any number of classes.
        columns: Names of the columns, or JSON keys, of image and label.
        image_root: Folder of the images; by default that of each list.
        read_all: Whether to read all images; otherwise one of each list. Files of equal content are then noted.

    Raises:
        ValueError: Options do not fit.
        FileNotFoundError: There is no such list.
    """
    lists = [Path(path).expanduser() for path in paths]
    for path in lists:
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            raise FileNotFoundError(f'there is no list {str(path)!r}; a list ends in {", ".join(SUFFIXES)}')
    if not classes and num_classes is None:
        if multi_label or any(path.suffix.lower() != '.txt' for path in lists):
            raise ValueError('tables and lists with several labels need the names of the classes, or their number: '
                             'give classes (--classes crow jay ...) or num_classes (--num-classes)')
        num_classes = 1 + max(image.label for path in lists for image in read_list(path))

    def build(path: Path) -> ListDataset:
        images = Path(image_root).expanduser() if image_root else path.parent
        return ListDataset(str(path), classes or None, num_classes, multi_label, columns, data_prefix=str(images),
                           check_images=False, **LOOK)

    return _check_parts({str(path): path for path in lists}, build, read_all)


def check_folders(paths: Sequence[str | Path], *, read_all: bool = False) -> DataReport:
    """Look at folders with one folder of images per class; an image in two of them is a problem, as is a wrong level.

    Args:
        paths: The folders, such as those of training and of validation; or one that has any of the folders ``train``,
            ``val`` and ``test``.
        read_all: Whether to read all images; otherwise one of each folder. Files of equal content are then noted.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folders = [Path(path).expanduser() for path in paths]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f'there is no folder {str(folder)!r}')
    if len(folders) == 1:
        folders = [folders[0] / split for split in _SPLITS if (folders[0] / split).is_dir()] or folders

    def build(folder: Path) -> CustomDataset:
        return CustomDataset(data_prefix=str(folder), extensions=IMAGE_SUFFIXES, **LOOK)

    report = _check_parts({str(folder): folder for folder in folders}, build, read_all)
    report.problems += [problem for folder in folders if (problem := _wrong_level(folder))]
    return report


def _wrong_level(folder: Path) -> str | None:
    """Say that the classes of a folder hold folders and no images, as where it is one level too high, or None."""
    inner = {each.name: list(each.iterdir()) for each in sorted(folder.iterdir()) if each.is_dir()}
    above = [name for name, held in inner.items() if held and all(each.is_dir() for each in held)]
    if not above:
        return None
    names = ', '.join(sorted(each.name for each in inner[above[0]])[:5])
    return (f'{folder}: {above[0]!r} would be a class, but holds folders ({names}) and no images: name the folder '
            f'whose folders are the classes, such as {str(folder / above[0])!r}')


def _choose(family: Family, root: Path, names: Sequence[str], report: DataReport) -> list[KnownSet]:
    if names:
        chosen = [family.find(name) for name in names]
        for known in chosen:
            if known.locate:
                known.locate(root)
        return chosen
    there, absent = [], []
    for known in family.sets.values():
        try:
            if known.locate:
                known.locate(root)
        except FileNotFoundError:
            absent.append(known.name)
        except ValueError as error:
            report.problems.append(f'{known.name}: {error}')
        else:
            there.append(known)
    if not there and not report.problems:
        raise FileNotFoundError(f'{str(root)!r} has no folder of {family.name}: its sets are {", ".join(absent)}; '
                                'docs/datasets.md tells how to get them')
    if absent:
        report.notes.append(f'not in {str(root)!r}: {", ".join(absent)}')
    return there


def _check_set(known: KnownSet, root: Path, options: Mapping[str, Any], read_all: bool, report: DataReport) -> None:
    loaders: dict[str, LoaderReport] = {}
    for split, count in known.images.items():
        name = split if known.locate is None else f'{known.name} {split}'
        dataset = _try(name, lambda split=split: known.build(root, split, **options), report)
        if dataset is None:
            continue
        own = loaders[split] = inspect_dataset(name, dataset, report, batched=False, read_all=read_all)
        report.loaders.append(own)
        if count not in (None, own.images):
            report.problems.append(f'{name}: has {own.images} images, officially {count}')
        if known.num_classes not in (None, own.num_classes):
            report.problems.append(f'{name}: has {own.num_classes} classes, officially {known.num_classes}')
    _compare_splits(known, loaders, report)
    if known.few_shot and known.chosen_from in loaders:
        _check_few_shot(known, root, options, report)
    if read_all:
        parts = [own for split, own in loaders.items() if not set(known.whole.get(split, ())) & loaders.keys()]
        note_equal_content(parts, report)


def _compare_splits(known: KnownSet, loaders: Mapping[str, LoaderReport], report: DataReport) -> None:
    for whole, parts in known.whole.items():
        if {whole, *parts} <= loaders.keys():
            together = set().union(*(loaders[part].files for part in parts))
            odd = sorted(loaders[whole].files ^ together)
            if odd:
                report.problems.append(f'{known.name}: {whole} is not {" and ".join(parts)} together: {len(odd)} '
                                       f'images are on one side alone, such as {odd[0]}')
    for first, second in combinations(loaders, 2):
        if second in known.whole.get(first, ()) or first in known.whole.get(second, ()):
            continue
        _note_overlap(loaders[first], loaders[second], report)


def _note_overlap(first: LoaderReport, second: LoaderReport, report: DataReport) -> None:
    both = first.files & second.files
    if both:
        report.problems.append(f'{len(both)} of the {len(second.files)} images of {second.loader} are in '
                               f'{first.loader} too, such as {min(both)}')


def _check_few_shot(known: KnownSet, root: Path, options: Mapping[str, Any], report: DataReport) -> None:
    folder = known.locate(root)
    lists = sorted(folder.glob(known.few_shot))
    if not lists:
        return
    labels = _labels(known.build(root, known.chosen_from, **options))
    sound = 0
    for path in lists:
        name = f'{known.name} {path.relative_to(folder).as_posix()}'
        dataset = _try(name, lambda path=path: known.build(root, known.chosen_from, **options,
                                                           ann_file=str(path.relative_to(folder))), report)
        if dataset is None:
            continue
        odd = [image for image, label in _labels(dataset).items() if labels.get(image) != label]
        sound += not odd
        if odd:
            what = 'has another label there' if odd[0] in labels else 'is not in it'
            report.problems.append(f'{name}: {len(odd)} images do not fit {known.chosen_from}, such as {odd[0]}, which '
                                   f'{what}')
    report.notes.append(f'{known.name}: {sound} of {len(lists)} few-shot lists are part of {known.chosen_from}')


def _labels(dataset: Any) -> dict[str, tuple[int, ...] | None]:
    return {info['img_path']: label_classes(info) for info in image_infos(dataset)}


def _check_parts(parts: Mapping[str, Path], build: Callable[[Path], Any], read_all: bool) -> DataReport:
    init_default_scope('mmpretrain')
    report, built = DataReport([], [], []), []
    for name, path in parts.items():
        dataset = _try(name, lambda path=path: build(path), report)
        if dataset is not None:
            report.loaders.append(inspect_dataset(name, dataset, report, batched=False, read_all=read_all))
            built.append((name, list(plain_datasets(dataset))))
    report.problems += names_problems(built)
    for first, second in combinations(report.loaders, 2):
        _note_overlap(first, second, report)
    if read_all:
        note_equal_content(report.loaders, report)
    return report


def _try(name: str, build: Callable[[], Any], report: DataReport) -> Any | None:
    try:
        return build()
    except (FileNotFoundError, *CONSTRUCTION_ERRORS) as error:
        report.problems.append(f'{name}: {error}')
        return None
