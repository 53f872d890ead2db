"""The 19 sets of VTAB-1k: names, groups, classes (Zhai et al., arXiv 1910.04867).

Class names are given where the order of the labels in tensorflow_datasets, from which the lists are made, is certain;
the other sets have a number of classes alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mmpretrain.datasets.categories import CIFAR100_CATEGORIES, DTD_CATEGORIES, OxfordIIITPet_CATEGORIES

EUROSAT_CATEGORIES = (
    'AnnualCrop', 'Forest', 'HerbaceousVegetation', 'Highway', 'Industrial', 'Pasture', 'PermanentCrop', 'Residential',
    'River', 'SeaLake',
)  # yapf: disable
RESISC45_CATEGORIES = (
    'airplane', 'airport', 'baseball_diamond', 'basketball_court', 'beach', 'bridge', 'chaparral', 'church',
    'circular_farmland', 'cloud', 'commercial_area', 'dense_residential', 'desert', 'forest', 'freeway', 'golf_course',
    'ground_track_field', 'harbor', 'industrial_area', 'intersection', 'island', 'lake', 'meadow', 'medium_residential',
    'mobile_home_park', 'mountain', 'overpass', 'palace', 'parking_lot', 'railway', 'railway_station',
    'rectangular_farmland', 'river', 'roundabout', 'runway', 'sea_ice', 'ship', 'snowberg', 'sparse_residential',
    'stadium', 'storage_tank', 'tennis_court', 'terrace', 'thermal_power_station', 'wetland',
)  # yapf: disable
RETINOPATHY_CATEGORIES = ('no', 'mild', 'moderate', 'severe', 'proliferative')  # Stages of the disease.


@dataclass(frozen=True)
class VTABSet:
    """One set of VTAB-1k.

    Args:
        name: The name and folder that the usual preparation script gives it.
        group: ``'Natural'``, ``'Specialized'`` or ``'Structured'``.
        num_classes: Number of classes.
        test_images: Number of images in ``test.txt``.
        spellings: Other names in use, for the set and for its folder.
        classes: Class names, or None.
    """

    name: str
    group: str
    num_classes: int
    test_images: int
    spellings: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """All names under which the folder may be found."""
        return (self.name, *self.spellings)


_SETS = (
    VTABSet('cifar', 'Natural', 100, 10000, ('cifar100', 'cifar_100'), CIFAR100_CATEGORIES),
    VTABSet('caltech101', 'Natural', 102, 6084, ('caltech', 'caltech_101')),
    VTABSet('dtd', 'Natural', 47, 1880, (), DTD_CATEGORIES),
    VTABSet('oxford_flowers102', 'Natural', 102, 6149, ('flowers102', 'oxford_flowers', 'flowers')),
    VTABSet('oxford_iiit_pet', 'Natural', 37, 3669, ('pets', 'pet', 'oxford_pet', 'oxford_pets', 'oxford_iiit_pets'),
            OxfordIIITPet_CATEGORIES),
    VTABSet('svhn', 'Natural', 10, 26032, ('svhn_cropped',), tuple('0123456789')),
    VTABSet('sun397', 'Natural', 397, 21750, ('sun',)),
    VTABSet('patch_camelyon', 'Specialized', 2, 32768, ('camelyon', 'pcam'), ('no_tumor', 'tumor')),
    VTABSet('eurosat', 'Specialized', 10, 5400, (), EUROSAT_CATEGORIES),
    VTABSet('resisc45', 'Specialized', 45, 6300, ('resisc',), RESISC45_CATEGORIES),
    VTABSet('diabetic_retinopathy', 'Specialized', 5, 42670, ('retinopathy',), RETINOPATHY_CATEGORIES),
    VTABSet('clevr_count', 'Structured', 8, 15000, (), tuple(f'{count} objects' for count in range(3, 11))),
    VTABSet('clevr_dist', 'Structured', 6, 15000, ('clevr_distance',)),
    VTABSet('dmlab', 'Structured', 6, 22735),
    VTABSet('kitti', 'Structured', 4, 711),
    VTABSet('dsprites_loc', 'Structured', 16, 73728, ('dsprites_location', 'dsprites_xpos')),
    VTABSet('dsprites_ori', 'Structured', 16, 73728, ('dsprites_orientation',)),
    VTABSet('smallnorb_azi', 'Structured', 18, 12150, ('smallnorb_azimuth',)),
    VTABSet('smallnorb_ele', 'Structured', 9, 12150, ('smallnorb_elevation',)),
)
VTAB_SETS: Mapping[str, VTABSet] = MappingProxyType({vtab_set.name: vtab_set for vtab_set in _SETS})
_SPELLINGS = {spelling: vtab_set for vtab_set in _SETS for spelling in vtab_set.folders}


def find_vtab_set(name: str) -> VTABSet:
    """Find a set of VTAB-1k by any of its names; case does not count, nor whether words are joined by ``-`` or ``_``.

    Raises:
        ValueError: There is no such set; the message lists all.
    """
    found = _SPELLINGS.get(str(name).lower().replace('-', '_'))
    if found is None:
        raise ValueError(f'VTAB-1k has no set {name!r}; choose from {", ".join(VTAB_SETS)}')
    return found
