"""Data sets, episodes and samplers."""

from .digits import Digits
from .fgvc import FGVC
from .fgvc_sets import FGVC_SETS, FGVCSet, find_fgvc_set
from .glyphs import Glyphs
from .list_dataset import ListDataset
from .medfmc import Chest19, Colon, Endoscopy
from .samplers import ResumableInfiniteSampler, ResumableRepeatAugSampler, ResumableSampler
from .seeded import SampleIndex, SeededDataset
from .vtab1k import VTAB1k
from .vtab_sets import VTAB_SETS, VTABSet, find_vtab_set

__all__ = [
    'FGVC',
    'FGVC_SETS',
    'VTAB_SETS',
    'Chest19',
    'Colon',
    'Digits',
    'Endoscopy',
    'FGVCSet',
    'Glyphs',
    'ListDataset',
    'ResumableInfiniteSampler',
    'ResumableRepeatAugSampler',
    'ResumableSampler',
    'SampleIndex',
    'SeededDataset',
    'VTAB1k',
    'VTABSet',
    'find_fgvc_set',
    'find_vtab_set',
]
