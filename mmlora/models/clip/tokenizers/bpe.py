"""CLIP's byte pair encoding.

Radford et al., ICML 2021, arXiv 2103.00020, section 2.4; byte pair encoding by Sennrich et al., ACL 2016,
arXiv 1508.07909. Text is repaired, unescaped, stripped, lower-cased and split into words, numbers (digit by digit) and
punctuation; the bytes of each word, as printable characters, are merged pair by pair in the order of the vocabulary.

Deviation from the published code: a prompt that writes out a special token is refused.
"""

import gzip
import html
import importlib.util
import unicodedata
from pathlib import Path

from ...._requirements import install_extra
from ....registry import TOKENIZERS, register
from .base import Tokenizer

VOCABULARY = 'bpe_simple_vocab_16e6.txt.gz'
NUM_MERGES = 48894
SPECIAL = ('<|startoftext|>', '<|endoftext|>')
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
EXTRA = install_extra('clip')


@register(TOKENIZERS)
class CLIPTokenizer(Tokenizer):
    """The tokenizer of CLIP, with the numbers of the published one.

    Args:
        vocabulary: A list of merges, one on each line after the first, as text or gzipped. By default the one that the
            wheel of ``open_clip_torch`` brings (extra ``clip``), which is OpenAI's.
        num_merges: How many of them count; the rest of OpenAI's file is unused. None takes all.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: None is given and open_clip is not installed.
        ValueError: The file holds fewer merges than asked for, or a line is no pair.
    """

    def __init__(self, vocabulary: str | Path | None = None, num_merges: int | None = NUM_MERGES) -> None:
        path = _installed_vocabulary() if vocabulary is None else Path(vocabulary)
        merges = read_merges(path, num_merges)
        self._bytes = printable_bytes()
        symbols = list(self._bytes.values())
        symbols += [symbol + '</w>' for symbol in symbols] + [first + second for first, second in merges]
        self._numbers = {symbol: number for number, symbol in enumerate(symbols)}
        self._order = {pair: number for number, pair in enumerate(merges)}
        self._words: dict[str, list[int]] = {}
        self.vocab_size = len(symbols) + 2

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without start and end.

        Raises:
            ValueError: The text writes out a special token.
            ImportError: The text may need repair and ftfy is not installed.
        """
        cleaned = clean(text)
        special = [token for token in SPECIAL if token in cleaned]
        if special:
            raise ValueError(f'the prompt {text!r} writes out the special token {special[0]}')
        return [token for word in split_words(cleaned) for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._words:
            symbols = [self._bytes[byte] for byte in word.encode('utf-8')]
            symbols[-1] += '</w>'
            self._words[word] = [self._numbers[symbol] for symbol in self._merged(symbols)]
        return self._words[word]

    def _merged(self, symbols: list[str]) -> list[str]:
        """Merge the pair that comes first in the vocabulary, wherever it occurs, until no pair is in it."""
        while len(symbols) > 1:
            pairs = set(zip(symbols, symbols[1:], strict=False))
            first, second = min(pairs, key=lambda pair: self._order.get(pair, len(self._order)))
            if (first, second) not in self._order:
                break
            merged, i = [], 0
            while i < len(symbols):
                both = symbols[i : i + 2] == [first, second]
                merged.append(first + second if both else symbols[i])
                i += 2 if both else 1
            symbols = merged
        return symbols


def read_merges(path: Path, count: int | None) -> list[tuple[str, str]]:
    """Return the first pairs of a vocabulary, the first line being its header.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: There are fewer, or a line is no pair.
    """
    if not path.is_file():
        raise FileNotFoundError(f'the vocabulary {str(path)!r} does not exist')
    data = path.read_bytes()
    lines = (gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data).decode('utf-8').strip().split('\n')[1:]
    if count is not None and len(lines) < count:
        raise ValueError(f'{path} holds {len(lines)} merges, {count} are asked for: num_merges=None takes all')
    merges = [tuple(line.split()) for line in lines[:count]]
    wrong = next((number for number, pair in enumerate(merges, start=2) if len(pair) != 2), None)
    if wrong is not None:
        raise ValueError(f'line {wrong} of {path} is no pair of symbols: {lines[wrong - 2]!r}')
    return merges


def printable_bytes() -> dict[int, str]:
    """Return a printable character for each byte, in the order of the vocabulary: printable ones stand for themselves.

    The others follow, as the characters from 256 on.
    """
    own = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    table = {byte: chr(byte) for byte in own}
    others = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(256 + number) for number, byte in enumerate(others)})
    return table


def clean(text: str) -> str:
    """Return a text repaired, without HTML entities, with single spaces, in lower case.

    Plain ASCII without entities needs no repair; for the rest ftfy must be installed, since other repairs would give
    other tokens.

    Raises:
        ImportError: ftfy is needed and not installed.
    """
    if not (text.isascii() and text.isprintable() and '&' not in text):
        try:
            import ftfy
        except ImportError as error:
            raise ImportError(
                f'the prompt {text!r} is not plain ASCII, and its tokens need ftfy, which is not installed: {EXTRA}',
                name='ftfy',
            ) from error
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return ' '.join(text.split()).lower()


def split_words(text: str) -> list[str]:
    """Return contractions, runs of letters, single numerals and runs of anything else but spaces.

    The published pattern is a regular expression with Unicode classes, which Python's own ``re`` does not know.
    """
    words, i = [], 0
    while i < len(text):
        short = next((part for part in CONTRACTIONS if text.startswith(part, i)), None)
        kind = _kind(text[i])
        end = i + 1
        if short is not None:
            end = i + len(short)
        elif kind in ('letter', 'mark'):
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind != 'space':
            words.append(text[i:end])
        i = end
    return words


def _kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    if character.isspace():
        return 'space'
    return {'L': 'letter', 'N': 'numeral'}.get(category, 'mark')


def _installed_vocabulary() -> Path:
    spec = importlib.util.find_spec('open_clip')  # found, not imported: the import takes seconds
    if spec is None or spec.origin is None:
        raise ImportError(
            f'the vocabulary of CLIP comes with open_clip_torch, which is not installed: {EXTRA}; or give the path of '
            f'{VOCABULARY}, tokenizer=dict(type={"CLIPTokenizer"!r}, vocabulary=...)',
            name='open_clip',
        )
    return Path(spec.origin).parent / VOCABULARY
