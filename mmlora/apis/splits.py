"""Writing few-shot lists under the names of the published ones: what ``tools/make_splits.py fewshot`` calls."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpretrain.datasets import CustomDataset

from ..datasets.few_shot_lists import choose_few_shot, describe_short, format_line
from ..datasets.fgvc import fgvc_few_shot_list
from ..datasets.fgvc_files import read_fgvc
from ..datasets.fgvc_sets import FGVC_SETS, find_fgvc_folder, find_fgvc_set
from ..datasets.list_files import ListedImage, read_list
from ..datasets.medfmc import Chest19, Colon, Endoscopy
from ..datasets.table_files import read_csv, read_json
from ..datasets.vtab1k import find_vtab_folder, vtab_few_shot_list
from ..datasets.vtab_sets import VTAB_SETS, find_vtab_set
from ..io.atomic import write_text

TABLES = {'.csv': read_csv, '.json': read_json}
MEDFMC = {data_set.SET: data_set for data_set in (Chest19, Colon, Endoscopy)}
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


@dataclass(frozen=True)
class ShotSource:
    """A list from which few-shot lists are chosen.

    Args:
        title: What messages call it.
        images: Its images.
        num_classes: Number of classes.
        out: Folder of the few-shot lists.
        file_name: Name of a list below ``out``, from its number of shots and its number.
        classes: Names of the classes, if known.
        between: What stands between the 0s and 1s of a multi-label list.
    """

    title: str
    images: Sequence[ListedImage]
    num_classes: int
    out: Path
    file_name: Callable[[int, int], str]
    classes: Sequence[str] = ()
    between: str = ','


def vtab_sources(data_root: str | os.PathLike, name: str, out: str | os.PathLike | None = None) -> list[ShotSource]:
    """Read ``train800val200.txt`` of one set of VTAB-1k, or of all sets that are there.

    Args:
        data_root: Folder of the sets.
        name: A name of the set, or ``'all'``.
        out: Folder in which each set gets a folder of lists; by default ``data_root``.

    Raises:
        ValueError: There is no such set, or a list cannot be used.
        FileNotFoundError: A folder or list is missing.
    """
    root = Path(data_root).expanduser()
    if name == 'all':
        sets = [s for s in VTAB_SETS.values() if any((root / folder).is_dir() for folder in s.folders)]
        if not sets:
            raise FileNotFoundError(f'{str(root)!r} has no folder of a VTAB-1k set')
    else:
        sets = [find_vtab_set(name)]
    sources = []
    for vtab_set in sets:
        folder = find_vtab_folder(root, vtab_set)
        images = read_list(folder / 'train800val200.txt', vtab_set.num_classes)
        target = Path(out) / folder.name if out else folder
        sources.append(ShotSource(vtab_set.name, images, vtab_set.num_classes, target, vtab_few_shot_list,
                                  vtab_set.classes or ()))
    return sources


def medfmc_sources(data_root: str | os.PathLike, name: str, out: str | os.PathLike | None = None) -> list[ShotSource]:
    """Read ``trainval.txt`` of one set of MedFMC, or of all that are there.

    Args:
        data_root: Folder of the sets.
        name: ``'chest'``, ``'colon'``, ``'endo'`` or ``'all'``.
        out: Folder in which each set gets a folder of lists; by default ``data_root``.

    Raises:
        ValueError: There is no such set, or a list cannot be used.
        FileNotFoundError: A folder or list is missing.
    """
    root = Path(data_root).expanduser()
    names = [known for known in MEDFMC if (root / known).is_dir()] if name == 'all' else [name]
    if not names:
        raise FileNotFoundError(f'{str(root)!r} has none of the folders {", ".join(MEDFMC)}')
    sources = []
    for known in names:
        if known not in MEDFMC:
            raise ValueError(f'MedFMC has the sets {", ".join(MEDFMC)}, not {known!r}')
        data_set = MEDFMC[known]
        classes = data_set.METAINFO['classes']
        images = read_list(root / known / 'trainval.txt', len(classes), data_set.MULTI_LABEL)

        def file_name(n_shot: int, exp: int, known: str = known) -> str:
            return f'{known}_{n_shot}-shot_train_exp{exp}.txt'

        between = ' ' if data_set is Endoscopy else ','
        sources.append(ShotSource(known, images, len(classes), Path(out or root) / known, file_name, classes, between))
    return sources


def fgvc_sources(data_root: str | os.PathLike, name: str, out: str | os.PathLike | None = None) -> list[ShotSource]:
    """Read train and val of one set of FGVC, or of all sets that are there.

    Args:
        data_root: Folder of the sets.
        name: A name of the set, or ``'all'``.
        out: Folder in which each set gets a folder of lists; by default ``data_root``.

    Raises:
        ValueError: There is no such set, or a file cannot be used.
        FileNotFoundError: A folder or file is missing.
    """
    root, sources = Path(data_root).expanduser(), []
    for fgvc_set in FGVC_SETS.values() if name == 'all' else [find_fgvc_set(name)]:
        try:
            folder = find_fgvc_folder(root, fgvc_set)
        except FileNotFoundError:
            if name != 'all':
                raise
            continue
        files = read_fgvc(folder, fgvc_set)
        if 'trainval' not in files.splits:
            raise FileNotFoundError(f'{str(folder)!r} has neither trainval.json nor both train.json and val.json')
        target = Path(out) / folder.name if out else folder
        sources.append(ShotSource(fgvc_set.name, files.splits['trainval'], len(files.class_ids), target,
                                  fgvc_few_shot_list, files.classes))
    if not sources:
        raise FileNotFoundError(f'{str(root)!r} has no folder of an FGVC set')
    return sources


def list_source(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    classes: Sequence[str] = (),
    num_classes: int | None = None,
    multi_label: bool = False,
    columns: tuple[str, str] = ('image', 'label'),
) -> ShotSource:
    """Read a list (``.txt``, ``.csv``, ``.json``) or a folder with one folder of images per class.

    Args:
        path: The list or folder. Classes of a folder are its folders in the order of their names.
        out: Folder of the few-shot lists.
        classes: Names of the classes of a list.
        num_classes: Number of classes of a list; a text list with one label each needs none, and has then as many as
            the largest label says.
        multi_label: Whether the images of a list have any number of classes.
        columns: Names of the columns, or JSON keys, of image and label.

    Raises:
        ValueError: The list or folder cannot be used.
        FileNotFoundError: There is no such list or folder.
    """
    path = Path(path).expanduser()

    def file_name(n_shot: int, exp: int) -> str:
        return f'train_{n_shot}-shot_exp{exp}.txt'

    if path.is_dir():
        if classes or num_classes or multi_label:
            raise ValueError(f'{str(path)!r} is a folder, whose folders are the classes: classes, num_classes and '
                             'multi_label are for lists')
        dataset = CustomDataset(data_prefix=str(path), extensions=IMAGE_SUFFIXES, serialize_data=False)
        images = [ListedImage(Path(info['img_path']).relative_to(path).as_posix(), info['gt_label'], number)
                  for number, info in enumerate(dataset.data_list, 1)]
        return ShotSource(str(path), images, len(dataset.CLASSES), Path(out), file_name, dataset.CLASSES)
    num_classes, table = num_classes or len(classes) or None, TABLES.get(path.suffix.lower())
    if num_classes is None and (table or multi_label):
        columns_too = f', and its columns or keys with columns (--columns), if not {columns[0]} {columns[1]}'
        raise ValueError(f'{path}: tables and lists with several labels need the names of the classes, or their '
                         'number: give classes (--classes crow jay ...) or num_classes (--num-classes)'
                         f'{columns_too if table else ""}')
    if table:
        images = table(path, num_classes, tuple(classes), multi_label, columns)
    else:
        images = read_list(path, num_classes, multi_label)
        num_classes = num_classes or max(image.label for image in images) + 1
    return ShotSource(str(path), images, num_classes, Path(out), file_name, tuple(classes))


def few_shot_files(
    source: ShotSource,
    shots: Sequence[int],
    exps: int,
    *,
    seed: int = 0,
    with_negatives: bool = False,
    allow_fewer: bool = False,
) -> tuple[dict[Path, str], list[str]]:
    """Choose the few-shot lists of a source; see :func:`~mmlora.datasets.few_shot_lists.choose_few_shot`.

    Args:
        source: The source.
        shots: Numbers of images per class.
        exps: Number of lists for each number of images.
        seed: Seed of all choices.
        with_negatives: Choose images without any class too.
        allow_fewer: Take what there is of a class with too few images.

    Returns:
        The content by path, and a line for each number of images that some class does not reach.

    Raises:
        ValueError: A number is out of range, or a class has too few images.
    """
    if exps < 1:
        raise ValueError(f'the number of lists must be at least 1, not {exps}')
    files, notes = {}, []
    for n_shot in shots:
        for exp in range(1, exps + 1):
            chosen, short = choose_few_shot(source.images, source.num_classes, n_shot, exp=exp, seed=seed,
                                            with_negatives=with_negatives)
            lines = [format_line(image, source.num_classes, source.between) for image in chosen]
            files[source.out / source.file_name(n_shot, exp)] = '\n'.join(lines) + '\n'
        if short:
            text = f'{source.title}: {describe_short(short, n_shot, source.classes)}'
            if not allow_fewer:
                raise ValueError(f'{text}; ask for fewer, or allow fewer (--allow-fewer) to take what there is')
            notes.append(text)
    return files, notes


def write_lists(files: Mapping[Path, str], force: bool = False) -> list[Path]:
    """Write lists, none of them where one would replace a file of other content.

    Args:
        files: Content by path.
        force: Replace such files.

    Returns:
        The paths that were written; a file that has the content already is left alone.

    Raises:
        FileExistsError: A file has other content. Nothing is written then.
    """
    new = [path for path, text in files.items() if not path.is_file() or path.read_bytes() != text.encode()]
    other = [path for path in new if path.exists()]
    if other and not force:
        raise FileExistsError(f'{len(other)} lists exist with other content, such as {str(other[0])!r}: choose another '
                              'folder, or force it (--force) to replace them')
    for path in new:
        write_text(path, files[path])
    return new

