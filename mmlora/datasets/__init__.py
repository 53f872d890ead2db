"""Data sets, episodes and samplers."""

from .glyphs import Glyphs

__all__ = ['Glyphs']
