"""Data sets, episodes and samplers."""

from .digits import Digits
from .glyphs import Glyphs
from .list_dataset import ListDataset
from .medfmc import Chest19, Colon, Endoscopy
from .samplers import ResumableInfiniteSampler, ResumableRepeatAugSampler, ResumableSampler
from .seeded import SampleIndex, SeededDataset
from .vtab1k import VTAB1k
from .vtab_sets import VTAB_SETS, VTABSet, find_vtab_set

__all__ = [
    'VTAB_SETS',
    'Chest19',
    'Colon',
    'Digits',
    'Endoscopy',
    'Glyphs',
    'ListDataset',
    'ResumableInfiniteSampler',
    'ResumableRepeatAugSampler',
    'ResumableSampler',
    'SampleIndex',
    'SeededDataset',
    'VTAB1k',
    'VTABSet',
    'find_vtab_set',
]
