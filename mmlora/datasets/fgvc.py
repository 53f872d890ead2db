"""FGVC: CUB-200-2011, NABirds, Oxford Flowers, Stanford Dogs and Stanford Cars, as VPT and RLRR use them."""

from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from mmlora.registry import DATASETS, register

from .fgvc_files import SPLITS, find_image_folder, read_fgvc, read_fgvc_json
from .fgvc_sets import FGVCSet, find_fgvc_folder, find_fgvc_set
from .list_files import ListedImage, read_list
from .listed import ListedDataset, check_shot


def fgvc_few_shot_list(n_shot: int, exp: int) -> str:
    """Return the name of a few-shot list, below the folder of its set."""
    return f'few_shot_exps/train_{n_shot}-shot_exp{exp}.txt'


@register(DATASETS)
class FGVC(ListedDataset):
    """A set of FGVC, from VPT's JSON files or from the official annotation files.

    Args:
        name: ``'cub'``, ``'nabirds'``, ``'flowers'``, ``'dogs'`` or ``'cars'``, or a spelling of VPT or RLRR such as
            ``'CUB_200_2011'``.
        split: ``'train'``, ``'val'``, ``'trainval'`` or ``'test'``. With ``n_shot``, train is the few-shot list and val
            is trainval without its images.
        n_shot: Images per class of the few-shot list; None for all images. Trainval and test ignore it.
        exp: Number of the few-shot list, from 1.
        data_root: Folder of the sets, or of this set.
        ann_file: A list that is read instead of the one that the arguments above stand for, relative to the folder of
            the set: ``.json`` as VPT's, with the class ids of the set, or ``.txt`` with lines ``<image> <label>``.
        layout: ``'json'``, ``'official'``, or None to take JSON where it is there.
        check_images: Whether to check at construction that all images exist.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...);
            ``data_prefix`` is the folder of the images below that of the set, which else is looked for.

    Raises:
        ValueError: An unknown set, split or layout, numbers out of range, or a file that cannot be used; the message
            quotes it.
        FileNotFoundError: The folder, a file or images do not exist.
    """

    def __init__(
        self,
        name: str,
        split: str = 'train',
        n_shot: int | None = None,
        exp: int = 1,
        data_root: str = 'data/FGVC',
        ann_file: str = '',
        layout: str | None = None,
        check_images: bool = True,
        **kwargs: Any,
    ) -> None:
        self.fgvc_set = find_fgvc_set(name)
        if split not in SPLITS:
            settle = ': call mmlora.apis.settle_variables(cfg) first' if str(split).startswith('{') else ''
            raise ValueError(f'FGVC has the splits {", ".join(SPLITS)}, not {split!r}{settle}')
        check_shot(n_shot, exp)
        self.split, self.n_shot, self.exp, self.layout = split, n_shot, exp, layout
        self.folder = find_fgvc_folder(data_root, self.fgvc_set)
        files = read_fgvc(self.folder, self.fgvc_set, layout)
        self._warn_of_classes(len(files.class_ids))
        without = None
        if ann_file:
            ann_file = str(self.folder / ann_file)
        elif n_shot is not None and split in ('train', 'val'):
            few = str(self.folder / fgvc_few_shot_list(n_shot, exp))
            self._check_list(few, data_root)
            ann_file, without = (few, None) if split == 'train' else (self._source(files, 'trainval'), few)
        else:
            ann_file = self._source(files, split)
        self._split_of = {source: own for own, source in files.sources.items() if own in files.splits}
        prefix = kwargs.pop('data_prefix', None)
        images = next(iter(files.splits.values()))
        place = find_image_folder(self.folder, self.fgvc_set, images) if prefix is None else self.folder / prefix
        metainfo = dict(kwargs.pop('metainfo', None) or {})
        if files.classes:
            metainfo.setdefault('classes', files.classes)
        super().__init__(
            ann_file=ann_file,
            num_classes=len(files.class_ids),
            without=without,
            check_images=check_images,
            metainfo=metainfo,
            data_prefix=str(place),
            **kwargs,
        )
        # Not given to the parent, which takes text in the meta information for the name of a file.
        self._metainfo.update(dataset=self.fgvc_set.name)

    def read_images(self, path: str) -> list[ListedImage]:
        """Read the images of one of the set's splits, of a JSON file or of a text list."""
        if Path(path).suffix.lower() == '.txt' and path not in self._split_of:
            return read_list(path, self.num_classes)
        files = read_fgvc(self.folder, self.fgvc_set, self.layout)
        if path in self._split_of:
            return files.splits[self._split_of[path]]
        return files.relabel(read_fgvc_json(Path(path)), path)

    def _source(self, files: Any, split: str) -> str:
        if split not in files.splits:
            has = ', '.join(name for name in SPLITS if name in files.splits)
            needs = files.sources.get(split) or ('train.json and val.json, or trainval.json' if split == 'trainval'
                                                 else f'{split}.json')
            raise FileNotFoundError(f'FGVC {self.fgvc_set.name}: split={split!r} needs {needs}; the files in '
                                    f'{str(self.folder)!r} give {has}')
        return files.sources[split]

    def _check_list(self, path: str, data_root: str) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(
                f'FGVC {self.fgvc_set.name}: there is no list {path!r}; make it with: python tools/make_splits.py '
                f'fewshot --dataset fgvc --data-root {data_root} --name {self.fgvc_set.name} --shots {self.n_shot} '
                f'--exps {max(5, self.exp)}'
            )

    def _warn_of_classes(self, found: int) -> None:
        fgvc_set: FGVCSet = self.fgvc_set
        if found != fgvc_set.num_classes:
            MMLogger.get_current_instance().warning(
                f'{self.folder}: the files have {found} classes, {fgvc_set.title} has {fgvc_set.num_classes}: the '
                'labels are not those of other files of the set')
