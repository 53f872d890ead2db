"""The data sets of this package, as ``tools/check_data.py`` knows them: what is where, and how much of it there is."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..datasets.coop import CoOpDataset
from ..datasets.coop_sets import COOP_SETS, IMAGENET_SHIFTS, CoOpSet, find_coop_folder, find_coop_set
from ..datasets.digits import Digits
from ..datasets.fgvc import FGVC
from ..datasets.fgvc_sets import FGVC_SETS, FGVCSet, find_fgvc_folder, find_fgvc_set
from ..datasets.glyphs import SPLITS as GLYPH_SPLITS
from ..datasets.glyphs import Glyphs
from ..datasets.medfmc import Chest19, Colon, Endoscopy
from ..datasets.vtab1k import VTAB1k, find_vtab_folder
from ..datasets.vtab_sets import VTAB_SETS, VTABSet, find_vtab_set

LOOK: Mapping[str, Any] = MappingProxyType(
    dict(pipeline=(dict(type='LoadImageFromFile'), dict(type='PackInputs')), serialize_data=False))
"""Options of a data set that is only looked at: no worker process will ever copy its list."""
_PACK = LOOK['pipeline'][1:]
_MEDFMC_IMAGES = {'chest': (979, 1161), 'endo': (929, 881), 'colon': (2358, 3296)}


@dataclass(frozen=True)
class KnownSet:
    """One data set.

    Args:
        name: Its name.
        images: Number of images of each split, None where they are drawn.
        build: Returns the data set of a split, ``build(root, split, **options)``, or with ``ann_file`` that of a list.
        locate: Returns the folder of the set below a root, and raises where there is none; None for data without files.
        num_classes: Number of classes; None where it differs between the splits.
        whole: The splits that a split puts together.
        folders: Usual names of its folder.
        source: Where it is published.
        options: Names of the options that ``build`` takes.
        few_shot: Pattern of its few-shot lists below its folder.
        chosen_from: The split that few-shot lists are chosen from.
    """

    name: str
    images: Mapping[str, int | None]
    build: Callable[..., Any]
    locate: Callable[[Path], Path] | None = None
    num_classes: int | None = None
    whole: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    source: str = ''
    options: tuple[str, ...] = ()
    few_shot: str = ''
    chosen_from: str = ''


@dataclass(frozen=True)
class Family:
    """Data sets that lie in one folder.

    Args:
        name: What the command line calls it.
        sets: Its sets by name.
        find: Returns a set by any of its names, and raises ``ValueError`` where there is none.
        root: The usual folder; empty for data without files.
        source: Where the sets are published, if in one place.
    """

    name: str
    sets: Mapping[str, KnownSet]
    find: Callable[[str], KnownSet]
    root: str = ''
    source: str = ''


def find_family(name: str) -> Family:
    """Find a family of data sets; case does not count, nor do ``-`` and ``_``.

    Raises:
        ValueError: There is none of that name; the message lists all.
    """
    found = FAMILIES.get(name.lower().replace('-', '').replace('_', ''))
    if found is None:
        close = difflib.get_close_matches(name.lower(), FAMILIES)
        meant = f'; did you mean {" or ".join(map(repr, close))}?' if close else ''
        raise ValueError(f'there is no data set {name!r}, nor such a config file; choose from {", ".join(FAMILIES)}'
                         f'{meant}')
    return found


def list_known() -> list[str]:
    """Describe all data sets, a line each: splits and classes, folders, source."""
    lines = []
    for family in FAMILIES.values():
        place = f'by default in {family.root}' if family.root else 'comes with mmlora'
        lines.append(f'{family.name}: {place}' + (f'; from {family.source}' if family.source else ''))
        for known in family.sets.values():
            images = ', '.join(f'{split}' if count is None else f'{split} {count}'
                               for split, count in known.images.items())
            classes = f'; {known.num_classes} classes' if known.num_classes else ''
            folders = f'; folder {" or ".join(known.folders)}' if known.folders else ''
            source = f'; from {known.source}' if known.source else ''
            lines.append(f'  {known.name}: {images}{classes}{folders}{source}')
    return lines


def _vtab(vtab_set: VTABSet) -> KnownSet:
    def build(root: Path, split: str, **options: Any) -> VTAB1k:
        return VTAB1k(vtab_set.name, split, data_root=str(root), check_images=False, **LOOK, **options)

    return KnownSet(
        vtab_set.name,
        dict(train800=800, val200=200, train800val200=1000, test=vtab_set.test_images),
        build,
        lambda root: find_vtab_folder(root, vtab_set),
        vtab_set.num_classes,
        dict(train800val200=('train800', 'val200')),
        vtab_set.folders,
        few_shot='few_shot_exps/*.txt',
        chosen_from='train800val200',
    )


def _medfmc(kind: type) -> KnownSet:
    def build(root: Path, split: str, **options: Any) -> Any:
        return kind(split, data_root=str(locate(root)), check_images=False, **LOOK, **options)

    def locate(root: Path) -> Path:
        folder = Path(root).expanduser() / kind.SET
        if not folder.is_dir():
            raise FileNotFoundError(f'there is no folder {str(folder)!r}')
        return folder

    trainval, test = _MEDFMC_IMAGES[kind.SET]
    return KnownSet(
        kind.SET, dict(trainval=trainval, test=test), build, locate, len(kind.METAINFO['classes']),
        folders=(kind.SET,), few_shot=f'{kind.SET}_*-shot_train_exp*.txt',
        chosen_from='trainval',
    )  # yapf: disable


def _fgvc(fgvc_set: FGVCSet) -> KnownSet:
    def build(root: Path, split: str, **options: Any) -> FGVC:
        return FGVC(fgvc_set.name, split, data_root=str(root), check_images=False, **LOOK, **options)

    return KnownSet(
        fgvc_set.name,
        fgvc_set.images,
        build,
        lambda root: find_fgvc_folder(root, fgvc_set),
        fgvc_set.num_classes,
        dict(trainval=('train', 'val')),
        fgvc_set.folders,
        fgvc_set.source,
        ('layout',),
        'few_shot_exps/*.txt',
        'trainval',
    )


def _coop(coop_set: CoOpSet) -> KnownSet:
    def build(root: Path, split: str, **options: Any) -> CoOpDataset:
        return CoOpDataset(coop_set.name, split, data_root=str(root), check_images=False, **LOOK, **options)

    return KnownSet(
        coop_set.name,
        coop_set.images,
        build,
        lambda root: find_coop_folder(root, coop_set),
        coop_set.num_classes,
        folders=coop_set.folders,
        source=coop_set.source,
    )


def _digits(root: Path, split: str) -> Digits:
    return Digits(split, pipeline=_PACK, serialize_data=False)


def _glyphs(root: Path, split: str) -> Glyphs:
    return Glyphs(split, samples_per_class=1, pipeline=_PACK, serialize_data=False)


def _named(name: str, sets: Mapping[str, KnownSet]) -> Callable[[str], KnownSet]:
    def find(wanted: str) -> KnownSet:
        if wanted not in sets:
            raise ValueError(f'{name} has the sets {", ".join(sets)}, not {wanted!r}')
        return sets[wanted]

    return find


def _families() -> dict[str, Family]:
    vtab = {name: _vtab(vtab_set) for name, vtab_set in VTAB_SETS.items()}
    medfmc = {kind.SET: _medfmc(kind) for kind in (Chest19, Endoscopy, Colon)}
    fgvc = {name: _fgvc(fgvc_set) for name, fgvc_set in FGVC_SETS.items()}
    coop = {name: _coop(coop_set) for name, coop_set in (*COOP_SETS.items(), *IMAGENET_SHIFTS.items())}
    digits = {'digits': KnownSet('digits', dict(train=800, val=400, test=597), _digits, num_classes=10)}
    glyphs = {'glyphs': KnownSet('glyphs', dict.fromkeys(GLYPH_SPLITS), _glyphs)}
    found = (
        Family('vtab1k', vtab, lambda name: vtab[find_vtab_set(name).name], 'data/vtab-1k',
               'tensorflow_datasets, by get_vtab1k.py of github.com/ZhangYuanhan-AI/NOAH'),
        Family('medfmc', medfmc, _named('medfmc', medfmc), 'data/MedFMC',
               'figshare, collection 6476047'),
        Family('fgvc', fgvc, lambda name: fgvc[find_fgvc_set(name).name], 'data/FGVC'),
        Family('coop', coop, lambda name: coop[find_coop_set(name).name], 'data/coop',
               'their own pages; the split files from DATASETS.md of github.com/KaiyangZhou/CoOp'),
        Family('digits', digits, _named('digits', digits), source='scikit-learn'),
        Family('glyphs', glyphs, _named('glyphs', glyphs), source='the fonts of matplotlib'),
    )
    return {family.name: family for family in found}


FAMILIES: Mapping[str, Family] = MappingProxyType(_families())
