"""The three sets of MedFMC: chest X-rays, endoscopy and colon pathology (Wang et al., arXiv 2306.09579).

The layout is that of the MedFM challenge: ``<root>/images/*.png`` and lists in ``<root>``, named ``trainval.txt``,
``test_WithLabel.txt`` and ``<set>_<k>-shot_{train,val}_exp<e>.txt``.

Deviations from the published use:

* Validation uses trainval without the training images. The published val lists of chest and endo hold nearly all
  training images, so that a choice made on them favours whoever learns these by heart. They are at hand as
  ``split='official_val'``, with a warning.
* Colon's class 0 is spelt ``negative``; the published code has ``negtive``.
"""

from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from mmlora.registry import DATASETS, register

from .listed import ListedDataset, check_shot

LISTS = {'trainval': 'trainval.txt', 'test': 'test_WithLabel.txt'}
SPLITS = ('train', 'val', 'official_val', *LISTS)


class MedFMC(ListedDataset):
    """What the three sets share; it is not a data set of its own.

    Args:
        split: ``'train'`` is trainval, or with ``n_shot`` the few-shot list. ``'val'`` is trainval without the images
            of the few-shot list; ``'official_val'`` the published list. ``'trainval'`` and ``'test'`` read the list of
            that name (``test_WithLabel.txt``).
        n_shot: Shots of the few-shot list: 1, 5 or 10 in the published ones; None for all images. A published shot is
            a patient or slide, of which there may be several images. Trainval and test ignore it.
        exp: Number of the few-shot list, 1 to 5 in the published ones.
        data_root: Folder of the set. By default ``data/MedFMC/<set>``.
        ann_file: A list that is read instead of the one that the arguments above stand for, relative to ``list_dir``.
        list_dir: Folder of the lists, by default ``data_root``.
        data_prefix: Folder of the images below ``data_root``.
        check_images: Whether to check at construction that all images exist.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...).

    Raises:
        ValueError: An unknown split, numbers out of range, or a list that cannot be used; the message quotes it.
        FileNotFoundError: A list or images do not exist.
    """

    SET = ''  # The name in folders and lists.
    MULTI_LABEL = True

    def __init__(
        self,
        split: str = 'train',
        n_shot: int | None = None,
        exp: int = 1,
        data_root: str = '',
        ann_file: str = '',
        list_dir: str = '',
        data_prefix: str = 'images',
        check_images: bool = True,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'{type(self).__name__} has the splits {", ".join(SPLITS)}, not {split!r}')
        check_shot(n_shot, exp)
        self.split, self.n_shot, self.exp = split, n_shot, exp
        root = Path(data_root or f'data/MedFMC/{self.SET}').expanduser()
        lists = Path(list_dir).expanduser() if list_dir else root
        own_list = bool(ann_file)
        ann_file, without = (ann_file, None) if own_list else self._choose_lists()
        for name in (ann_file, without):
            if name and not (lists / name).is_file():
                raise FileNotFoundError(
                    f'{type(self).__name__}: there is no list {str(lists / name)!r}; set data_root (or list_dir) to '
                    'the folder that holds the lists; docs/datasets.md tells how to get them'
                )
        super().__init__(
            ann_file=str(lists / ann_file),
            num_classes=len(self.METAINFO['classes']),
            multi_label=self.MULTI_LABEL,
            without=str(lists / without) if without else None,
            check_images=check_images,
            data_prefix=str(root / data_prefix),
            **kwargs,
        )
        if split == 'official_val' and not own_list:
            self._warn_of_leak(lists / self._few_shot_list('train'))

    def _few_shot_list(self, part: str) -> str:
        return f'{self.SET}_{self.n_shot}-shot_{part}_exp{self.exp}.txt'

    def _choose_lists(self) -> tuple[str, str | None]:
        """Return the list of the split, and the list whose images are left out."""
        if self.split in LISTS:
            return LISTS[self.split], None
        if self.n_shot is None:
            if self.split == 'train':
                return LISTS['trainval'], None
            raise ValueError(f'split={self.split!r} needs n_shot: training on all of trainval leaves no image for '
                             'validation; leave out validation, or name a list of your own by ann_file')
        if self.split == 'val':
            return LISTS['trainval'], self._few_shot_list('train')
        return self._few_shot_list('train' if self.split == 'train' else 'val'), None

    def _warn_of_leak(self, train: Path) -> None:
        if not train.is_file():
            raise FileNotFoundError(f'there is no list {str(train)!r}, with which the published val list is compared')
        names = {image.name for image in self.read_images(train)}
        validated = {image.name for image in self.read_images(self.ann_file)}
        if names & validated:
            MMLogger.get_current_instance().warning(
                f'{len(names & validated)} of the {len(validated)} images of {self.ann_file} are training images '
                f"({train.name} has {len(names)}): do not choose anything by it; split='val' has none of them"
            )


@register(DATASETS)
class Chest19(MedFMC):
    """Chest X-rays, each with any of 19 findings; :class:`MedFMC` has the arguments."""

    SET = 'chest'
    METAINFO = dict(
        classes=(
            'pleural_effusion', 'nodule', 'pneumonia', 'cardiomegaly', 'hilar_enlargement', 'fracture_old', 'fibrosis',
            'aortic_calcification', 'tortuous_aorta', 'thickened_pleura', 'TB', 'pneumothorax', 'emphysema',
            'atelectasis', 'calcification', 'pulmonary_edema', 'increased_lung_markings', 'elevated_diaphragm',
            'consolidation',
        ),
        dataset='chest',
    )  # yapf: disable


@register(DATASETS)
class Endoscopy(MedFMC):
    """Endoscopic images, each with any of 4 lesions; :class:`MedFMC` has the arguments."""

    SET = 'endo'
    METAINFO = dict(classes=('ulcer', 'erosion', 'polyp', 'tumor'), dataset='endo')


@register(DATASETS)
class Colon(MedFMC):
    """Patches of colon pathology, without (negative) or with tumor; :class:`MedFMC` has the arguments."""

    SET = 'colon'
    MULTI_LABEL = False
    METAINFO = dict(classes=('negative', 'positive'), dataset='colon')
