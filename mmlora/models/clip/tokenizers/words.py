"""A tokenizer of whole words, for small worlds."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from .... import assets
from ....registry import TOKENIZERS, register
from .base import Tokenizer

_OWN = 'mmlora://'


@register(TOKENIZERS)
class WordTokenizer(Tokenizer):
    """Each word and each punctuation mark is a token; case does not matter.

    Token 0 fills up, then come the words of the vocabulary, then start and end.

    Args:
        vocabulary: The words, or the path of a text file with one on each line; ``mmlora://clip-micro_words.txt`` is
            that of the package.

    Raises:
        ValueError: The vocabulary is empty, holds a word twice, or an entry is no single word.
        FileNotFoundError: The file does not exist.
    """

    def __init__(self, vocabulary: Sequence[str] | str | Path) -> None:
        where = 'the vocabulary'
        if isinstance(vocabulary, (str, Path)):
            where = str(vocabulary)
            if where.startswith(_OWN):
                vocabulary = assets.path(where.removeprefix(_OWN))
            vocabulary = [line.strip() for line in Path(vocabulary).read_text(encoding='utf-8').splitlines()]
        words = [word.lower() for word in vocabulary if word]
        for word in words:
            if _split(word) != [word]:
                raise ValueError(f'{where} holds {word!r}, which is not one word or one punctuation mark')
        twice = sorted({word for word in words if words.count(word) > 1})
        if not words or twice:
            raise ValueError(f'{where} must hold words, each once, got {len(words)} with {twice} more than once')
        self._numbers = {word: number for number, word in enumerate(words, start=1)}
        self.vocab_size = len(words) + 3

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary, in the order of the tokens."""
        return tuple(self._numbers)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without start and end.

        Raises:
            ValueError: A word is not in the vocabulary.
        """
        tokens = []
        for word in _split(text.lower()):
            if word not in self._numbers:
                close = difflib.get_close_matches(word, self._numbers) or list(self._numbers)[:5]
                raise ValueError(f'{word!r} of {text!r} is not among the {len(self._numbers)} words; near: {close}')
            tokens.append(self._numbers[word])
        return tokens


def _split(text: str) -> list[str]:
    return re.findall(r'[^\W_]+|[^\w\s]|_', text)
