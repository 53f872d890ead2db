"""Data sets, episodes and samplers."""

from .digits import Digits
from .glyphs import Glyphs
from .samplers import ResumableInfiniteSampler, ResumableRepeatAugSampler, ResumableSampler
from .seeded import SampleIndex, SeededDataset

__all__ = [
    'Digits',
    'Glyphs',
    'ResumableInfiniteSampler',
    'ResumableRepeatAugSampler',
    'ResumableSampler',
    'SampleIndex',
    'SeededDataset',
]
