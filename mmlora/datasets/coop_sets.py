"""The eleven sets on which CoOp (Zhou et al., arXiv 2109.01134) and CLIP-LoRA (arXiv 2405.18541) learn from few images.

And the four with other images of ImageNet's classes on which CoOp tests what was learned on ImageNet. The numbers of
images of Food-101 and SUN397 are those of CoOp's paper; those of the others are of its split files and of the official
lists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .set_names import find_set, plain_name, spellings_of

PHOTO = 'a photo of a {}.'
TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    'photo': (PHOTO,),
    'ensemble': ('itap of a {}.', 'a bad photo of the {}.', 'a origami {}.', 'a photo of the large {}.',
                 'a {} in a video game.', 'art of the {}.', 'a photo of the small {}.'),
})  # yapf: disable
"""Prompts by name: CLIP-LoRA's one for all sets, and the seven that CLIP chose for ImageNet."""
_COOP = 'DATASETS.md of github.com/KaiyangZhou/CoOp'


@dataclass(frozen=True)
class CoOpSet:
    """One set.

    Args:
        name: Its name.
        title: Its full name.
        num_classes: Number of classes.
        images: Number of images of each split.
        folders: Usual names of the folder: CoOp's, then that of CLIP-LoRA's code; case, ``-``, ``_`` and blanks do not
            count.
        image_folders: Where images lie below the folder; the first that is there is taken.
        reader: How labels are told: ``'json'`` (a split file), ``'aircraft'``, ``'imagenet'`` or ``'shift'``.
        split_file: The file that has to be there; empty where folders are the classes.
        template: The prompt that CoOp has for the set.
        source: Where the images are published.
        spellings: Other names of the set.
    """

    name: str
    title: str
    num_classes: int
    images: Mapping[str, int]
    folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    reader: str = 'json'
    split_file: str = ''
    template: str = PHOTO
    source: str = ''
    spellings: tuple[str, ...] = ()

    @property
    def split_source(self) -> str:
        """Where the split file is published."""
        return self.source if self.reader == 'aircraft' else _COOP


def _images(train: int, val: int, test: int) -> Mapping[str, int]:
    return MappingProxyType(dict(train=train, val=val, test=test))


_SETS = (
    CoOpSet('imagenet', 'ImageNet', 1000, MappingProxyType(dict(train=1281167, test=50000)), ('imagenet',),
            ('images', ''), 'imagenet', source='https://image-net.org', spellings=('imagenet1k', 'ilsvrc2012')),
    CoOpSet('caltech101', 'Caltech-101', 100, _images(4128, 1649, 2465), ('caltech-101', 'Caltech101'),
            ('101_ObjectCategories',), split_file='split_zhou_Caltech101.json',
            source='https://data.caltech.edu/records/mzrjq-6wc02', spellings=('caltech',)),
    CoOpSet('oxford_pets', 'Oxford-IIIT Pets', 37, _images(2944, 736, 3669), ('oxford_pets', 'OxfordPets'), ('images',),
            split_file='split_zhou_OxfordPets.json', template='a photo of a {}, a type of pet.',
            source='https://www.robots.ox.ac.uk/~vgg/data/pets', spellings=('pets', 'oxford_iiit_pet')),
    CoOpSet('stanford_cars', 'Stanford Cars', 196, _images(6509, 1635, 8041), ('stanford_cars', 'StanfordCars'), ('',),
            split_file='split_zhou_StanfordCars.json',
            source='http://ai.stanford.edu/~jkrause/cars/car_dataset.html', spellings=('cars',)),
    CoOpSet('oxford_flowers', 'Oxford Flowers 102', 102, _images(4093, 1633, 2463), ('oxford_flowers', 'Flower102'),
            ('jpg',), split_file='split_zhou_OxfordFlowers.json', template='a photo of a {}, a type of flower.',
            source='https://www.robots.ox.ac.uk/~vgg/data/flowers/102', spellings=('flowers', 'flowers102')),
    CoOpSet('food101', 'Food-101', 101, _images(50500, 20200, 30300), ('food-101', 'Food101'), ('images',),
            split_file='split_zhou_Food101.json', template='a photo of {}, a type of food.',
            source='https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101', spellings=('food',)),
    CoOpSet('fgvc_aircraft', 'FGVC-Aircraft', 100, _images(3334, 3333, 3333), ('fgvc_aircraft',), ('images',),
            'aircraft', 'variants.txt', 'a photo of a {}, a type of aircraft.',
            'https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft (data/ of fgvc-aircraft-2013b)', ('fgvc', 'aircraft')),
    CoOpSet('sun397', 'SUN397', 397, _images(15880, 3970, 19850), ('sun397', 'SUN397'), ('SUN397',),
            split_file='split_zhou_SUN397.json', source='https://vision.princeton.edu/projects/2010/SUN',
            spellings=('sun',)),
    CoOpSet('dtd', 'Describable Textures', 47, _images(2820, 1128, 1692), ('dtd', 'DTD'), ('images',),
            split_file='split_zhou_DescribableTextures.json', template='{} texture.',
            source='https://www.robots.ox.ac.uk/~vgg/data/dtd', spellings=('textures', 'describable_textures')),
    CoOpSet('eurosat', 'EuroSAT', 10, _images(13500, 5400, 8100), ('eurosat',), ('2750',),
            split_file='split_zhou_EuroSAT.json', template='a centered satellite photo of {}.',
            source='https://github.com/phelber/EuroSAT'),
    CoOpSet('ucf101', 'UCF101', 101, _images(7639, 1898, 3783), ('ucf101', 'UCF101'), ('UCF-101-midframes',),
            split_file='split_zhou_UCF101.json', template='a photo of a person doing {}.', source=_COOP,
            spellings=('ucf',)),
)  # yapf: disable
_SHIFTS = (
    CoOpSet('imagenetv2', 'ImageNetV2', 1000, MappingProxyType(dict(test=10000)), ('imagenetv2',),
            ('imagenetv2-matched-frequency-format-val',), 'shift',
            source='https://github.com/modestyachts/ImageNetV2 (matched frequency)', spellings=('imagenet_v2',)),
    CoOpSet('imagenet_sketch', 'ImageNet-Sketch', 1000, MappingProxyType(dict(test=50889)), ('imagenet-sketch',),
            ('images',), 'shift', source='https://github.com/HaohanWang/ImageNet-Sketch'),
    CoOpSet('imagenet_a', 'ImageNet-A', 200, MappingProxyType(dict(test=7500)), ('imagenet-adversarial',),
            ('imagenet-a',), 'shift', source='https://github.com/hendrycks/natural-adv-examples'),
    CoOpSet('imagenet_r', 'ImageNet-R', 200, MappingProxyType(dict(test=30000)), ('imagenet-rendition',),
            ('imagenet-r',), 'shift', source='https://github.com/hendrycks/imagenet-r'),
)  # yapf: disable
COOP_SETS: Mapping[str, CoOpSet] = MappingProxyType({coop_set.name: coop_set for coop_set in _SETS})
"""The eleven sets that are learned from."""
IMAGENET_SHIFTS: Mapping[str, CoOpSet] = MappingProxyType({coop_set.name: coop_set for coop_set in _SHIFTS})
"""The sets that are tested on alone."""


_SPELLINGS = spellings_of((*_SETS, *_SHIFTS))


def find_coop_set(name: str) -> CoOpSet:
    """Find a set by any of its names; case does not count, nor do ``-``, ``_`` and blanks.

    Raises:
        ValueError: There is no such set; the message lists all, and those of a similar name.
    """
    return find_set(name, _SPELLINGS, 'CoOp')


def find_coop_folder(data_root: str | Path, coop_set: CoOpSet) -> Path:
    """Find the folder of a set, in the spelling of CoOp or of CLIP-LoRA's code.

    Args:
        data_root: Folder of the sets, or the folder of this set.
        coop_set: The set.

    Raises:
        FileNotFoundError: There is no such folder; the message lists what there is and where to get the set.
        ValueError: Several folders have a name of the set, so that it is open which one is meant.
    """
    root = Path(data_root).expanduser()
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else None
    own = {plain_name(name) for name in (coop_set.name, *coop_set.folders)}
    is_set = there is not None and plain_name(root.resolve().name) in own
    if coop_set.split_file and (root / coop_set.split_file).is_file():
        return root
    # The images of SUN397 lie in a folder SUN397 within that of the set.
    inner = coop_set.image_folders if is_set else ()
    found = [name for name in there or () if plain_name(name) in own and name not in inner]
    if len(found) > 1:
        raise ValueError(f'{str(root)!r} has the folders {" and ".join(found)}, which are names of one set: keep one, '
                         'or set data_root to the one that is meant')
    if found:
        return root / found[0]
    if is_set:
        return root
    has = 'does not exist' if there is None else f'has {_listed(there) or "no folders"}'
    raise FileNotFoundError(f'no folder {" or ".join(coop_set.folders)} in {str(root)!r}, which {has}: set data_root '
                            f'to the folder that holds the sets; {coop_set.title} is published at {coop_set.source}')


def find_templates(templates: str | Sequence[str], of_set: str) -> tuple[str, ...]:
    """Return prompts by name, or given ones.

    Args:
        templates: ``'set'`` for that of the set, a name of :data:`TEMPLATES`, one prompt with ``{}``, or several.
        of_set: The prompt of the set.

    Raises:
        ValueError: There is no such name, or a prompt has not just one place ``{}`` for the class.
    """
    if isinstance(templates, str) and '{}' not in templates:
        if templates != 'set' and templates not in TEMPLATES:
            raise ValueError(f'templates={templates!r} must be one of {", ".join(map(repr, ("set", *TEMPLATES)))}, or '
                             f'prompts with {{}} for the name of the class, such as {PHOTO!r}')
        return (of_set,) if templates == 'set' else TEMPLATES[templates]
    found = (templates,) if isinstance(templates, str) else tuple(templates)
    wrong = [template for template in found if not isinstance(template, str) or template.count('{}') != 1]
    if wrong or not found:
        raise ValueError(f'templates={templates!r} must be prompts with one {{}} each for the name of the class, such '
                         f'as {PHOTO!r}')
    return found


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:20]) + (f', ... {len(names)} in all' if len(names) > 20 else '')
