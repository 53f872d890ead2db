"""The five sets of fine-grained classification (FGVC) of VPT (Jia et al., ECCV 2022, arXiv 2203.12119), as tables.

The numbers of images are those of VPT's JSON files, which hold out a tenth of the official training images as val;
Flowers has an official val.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .set_names import find_set, plain_name, spellings_of


@dataclass(frozen=True)
class FGVCSet:
    """One set.

    Args:
        name: Its short name.
        title: Its full name.
        num_classes: Number of classes.
        train_images: Number of training images without val.
        val_images: Number of images of val.
        test_images: Number of test images.
        folders: Usual names of the folder, the first that of VPT; case, ``-``, ``_`` and blanks do not count.
        image_folders: Where images may lie below the folder, the official place first.
        official: The official annotation files, of which the first tells that they are there.
        source: Where images and annotation files are published.
        spellings: Other names of the set.
    """

    name: str
    title: str
    num_classes: int
    train_images: int
    val_images: int
    test_images: int
    folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    official: tuple[str, ...]
    source: str
    spellings: tuple[str, ...] = ()

    @property
    def images(self) -> dict[str, int]:
        """Number of images of each split."""
        return dict(train=self.train_images, val=self.val_images, trainval=self.train_images + self.val_images,
                    test=self.test_images)


_BIRDS = ('train_test_split.txt', 'images.txt', 'image_class_labels.txt', 'classes.txt')
_SETS = (
    FGVCSet('cub', 'CUB-200-2011', 200, 5394, 600, 5794, ('CUB_200_2011', 'CUB', 'CUB_200', 'CUB_2011'),
            ('images', ''), _BIRDS, 'https://www.vision.caltech.edu/datasets/cub_200_2011'),
    FGVCSet('nabirds', 'NABirds', 555, 21536, 2393, 24633, ('nabirds', 'NABirds555'), ('images', ''), _BIRDS,
            'https://dl.allaboutbirds.org/nabirds', ('na_birds',)),
    FGVCSet('flowers', 'Oxford Flowers 102', 102, 1020, 1020, 6149,
            ('OxfordFlower', 'OxfordFlowers', 'OxfordFlowers102', 'OxfordFlower102', 'Flowers', 'Flowers102'),
            ('', 'jpg', 'images', 'Images'), ('imagelabels.mat', 'setid.mat'),
            'https://www.robots.ox.ac.uk/~vgg/data/flowers/102'),
    FGVCSet('dogs', 'Stanford Dogs', 120, 10800, 1200, 8580, ('Stanford-dogs', 'Dogs', 'StanfordDog'),
            ('Images', 'images', ''), ('train_list.mat', 'test_list.mat'),
            'http://vision.stanford.edu/aditya86/ImageNetDogs'),
    FGVCSet('cars', 'Stanford Cars', 196, 7329, 815, 8041, ('Stanford-cars', 'Cars', 'StanfordCar', 'Cars196'),
            ('', 'images', 'Images'), ('cars_train_annos.mat', 'cars_test_annos_withlabels.mat', 'cars_meta.mat'),
            'http://ai.stanford.edu/~jkrause/cars/car_dataset.html'),
)  # yapf: disable
FGVC_SETS: Mapping[str, FGVCSet] = MappingProxyType({fgvc_set.name: fgvc_set for fgvc_set in _SETS})


_SPELLINGS = spellings_of(_SETS)


def find_fgvc_set(name: str) -> FGVCSet:
    """Find a set by any of its names; case does not count, nor do ``-``, ``_`` and blanks.

    Raises:
        ValueError: There is no such set; the message lists all, and those of a similar name.
    """
    return find_set(name, _SPELLINGS, 'FGVC')


def find_fgvc_folder(data_root: str | Path, fgvc_set: FGVCSet) -> Path:
    """Find the folder of a set, in whichever spelling.

    Args:
        data_root: Folder of the sets, or the folder of this set.
        fgvc_set: The set.

    Raises:
        FileNotFoundError: There is no such folder; the message lists what there is.
        ValueError: Several folders have a name of the set, so that it is open which one is meant.
    """
    root = Path(data_root).expanduser()
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else None
    found = [name for name in there or () if _SPELLINGS.get(plain_name(name)) is fgvc_set]
    if len(found) > 1:
        raise ValueError(f'{str(root)!r} has the folders {" and ".join(found)}, which are names of one set: keep one, '
                         'or set data_root to the one that is meant')
    if found:
        return root / found[0]
    if there is not None and _SPELLINGS.get(plain_name(root.resolve().name)) is fgvc_set:
        return root
    has = 'does not exist' if there is None else f'has {", ".join(there) or "no folders"}'
    folders = [plain_name(folder) for folder in fgvc_set.folders]
    close = [name for name in there or () if difflib.get_close_matches(plain_name(name), folders)]
    meant = f' ({" or ".join(close)} may be it: rename it)' if close else ''
    raise FileNotFoundError(f'no folder {" or ".join(fgvc_set.folders)} in {str(root)!r}, which {has}{meant}: set '
                            'data_root to the folder that holds the sets; docs/datasets.md tells how to get them')
