"""How the class lists under ``data_splits/glyphs/`` are made: letters by script, without look-alikes.

Rules, applied in this order:

1. A class is a plain letter (:func:`~mmlora.datasets.glyph_fonts.is_plain_letter`) that a text font of matplotlib has.
2. A font counts for a letter only if it draws ink, and not the same ink as for U+FFFF (the box of a missing glyph).
3. Look-alikes are dropped. Letters are visited split by split (train, val, test), script by script, by code point; a
   letter is dropped if its size-normalised bitmap, in any font that both have, correlates by :data:`LOOK_ALIKE` or
   more with a letter that was kept before, of whatever split. So no two classes of a split look the same (Latin O and
   o, Latin A, Greek Alpha and Cyrillic A), and no letter of the val and test scripts looks like a training letter.
4. A script with fewer than :data:`MIN_LETTERS` letters left is dropped.
"""

import unicodedata
from typing import Any

import cv2
import numpy as np

from .glyph_fonts import FONTS, covered_letters, font_sha256, script_of
from .glyph_render import glyph_bitmap

LOOK_ALIKE = 0.95
MIN_LETTERS = 12
SPLIT_SCRIPTS = {
    'train': ('LATIN', 'GREEK', 'CYRILLIC', 'COPTIC', 'ARABIC', 'LISU', 'CANADIAN SYLLABICS', 'OLD ITALIC'),
    'val': ('HEBREW', 'NKO', 'OGHAM'),
    'test': ('ARMENIAN', 'GEORGIAN', 'LAO', 'TIFINAGH'),
}
_MISSING = 0xFFFF


def drawable_fonts(code: int, fonts: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of ``fonts`` that draw visible ink for the letter, other than the box of a missing glyph."""
    return tuple(
        font
        for font in fonts
        if glyph_bitmap(code, font).any() and not np.array_equal(glyph_bitmap(code, font), glyph_bitmap(_MISSING, font))
    )


def appearance(code: int, font: str) -> np.ndarray:
    """Return the letter's standardised 16x16 bitmap; the dot product of two is their correlation in -1..1.

    Returns:
        ``(256,)`` float32 with mean 0 and norm 1.
    """
    small = cv2.resize(glyph_bitmap(code, font), (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / np.linalg.norm(small)


def select_letters(look_alike: float = LOOK_ALIKE) -> tuple[dict[str, list[int]], dict[int, int]]:
    """Choose the classes of each split.

    Args:
        look_alike: Correlation from which two letters count as the same picture.

    Returns:
        The code points of each split, and for each dropped look-alike the letter that it resembles.
    """
    letters = {code: drawable_fonts(code, fonts) for code, fonts in covered_letters().items()}
    seen = {font: np.empty((len(letters), 256), np.float32) for font in FONTS}  # filled from above
    seen_codes: dict[str, list[int]] = {font: [] for font in FONTS}
    kept: dict[str, list[int]] = {}
    twins: dict[int, int] = {}
    for split, scripts in SPLIT_SCRIPTS.items():
        kept[split] = []
        for script in scripts:
            for code in (code for code in letters if letters[code] and script_of(chr(code)) == script):
                views = {font: appearance(code, font) for font in letters[code]}
                for font, view in views.items():
                    if seen_codes[font]:
                        scores = seen[font][:len(seen_codes[font])] @ view
                        if scores.max() >= look_alike:
                            twins[code] = seen_codes[font][int(scores.argmax())]
                            break
                else:
                    kept[split].append(code)
                    for font, view in views.items():
                        seen[font][len(seen_codes[font])] = view
                        seen_codes[font].append(code)
        counts = {script: sum(script_of(chr(code)) == script for code in kept[split]) for script in scripts}
        kept[split] = [code for code in kept[split] if counts[script_of(chr(code))] >= MIN_LETTERS]
    return kept, twins


def split_document(split: str, codes: list[int], command: str) -> dict[str, Any]:
    """Write down one split as plain data.

    Args:
        split: Name of the split.
        codes: Its code points; their order is the order of the class indices.
        command: The command that makes the file.

    Returns:
        What goes into the JSON file: source, command, the fonts with their sha256, the sets of fonts that occur, and
        for each class its code point, name, script and the index of its set of fonts.
    """
    letters = covered_letters()
    drawable = [drawable_fonts(code, letters[code]) for code in codes]
    font_sets = sorted(set(drawable))
    return {
        'split': split,
        'source': 'TrueType fonts that matplotlib ships (DejaVu 2.37, STIX); names from the Unicode character data',
        'command': command,
        'rule': f'plain letters (L*), look-alikes dropped at correlation {LOOK_ALIKE}, scripts of >= {MIN_LETTERS}',
        'scripts': list(SPLIT_SCRIPTS[split]),
        'fonts': {font: font_sha256(font) for font in FONTS},
        'font_sets': [list(fonts) for fonts in font_sets],
        'classes': [
            {
                'code': code,
                'name': unicodedata.name(chr(code)),
                'script': script_of(chr(code)),
                'fonts': font_sets.index(fonts),
            }
            for code, fonts in zip(codes, drawable, strict=True)
        ],
    }
