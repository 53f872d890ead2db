"""Data sets, episodes and samplers."""

from .digits import Digits
from .glyphs import Glyphs

__all__ = ['Digits', 'Glyphs']
