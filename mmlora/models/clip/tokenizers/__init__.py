"""From prompts to tokens."""

from .base import Tokenizer
from .bpe import CLIPTokenizer
from .words import WordTokenizer

__all__ = ['CLIPTokenizer', 'Tokenizer', 'WordTokenizer']
