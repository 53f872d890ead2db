"""Which letters the fonts that matplotlib ships can draw: fonts, code points, names and scripts."""

import hashlib
import unicodedata
from functools import cache
from pathlib import Path

# The text fonts only: matplotlib's other files hold mathematical symbols, Computer Modern's own encoding or the
# "last resort" boxes, none of which are letters of a script.
FONTS = (
    'DejaVuSans.ttf',
    'DejaVuSans-Bold.ttf',
    'DejaVuSans-BoldOblique.ttf',
    'DejaVuSans-Oblique.ttf',
    'DejaVuSansMono.ttf',
    'DejaVuSansMono-Bold.ttf',
    'DejaVuSansMono-BoldOblique.ttf',
    'DejaVuSansMono-Oblique.ttf',
    'DejaVuSerif.ttf',
    'DejaVuSerif-Bold.ttf',
    'DejaVuSerif-BoldItalic.ttf',
    'DejaVuSerif-Italic.ttf',
    'STIXGeneral.ttf',
    'STIXGeneralBol.ttf',
    'STIXGeneralBolIta.ttf',
    'STIXGeneralItalic.ttf',
)

# The words of a Unicode name that say the script. A letter whose name starts otherwise (MATHEMATICAL, MODIFIER,
# DOUBLE-STRUCK, KELVIN ...) is a styled copy of a letter and is no class here.
SCRIPTS = (
    'LATIN',
    'GREEK',
    'CYRILLIC',
    'COPTIC',
    'ARMENIAN',
    'GEORGIAN',
    'HEBREW',
    'ARABIC',
    'NKO',
    'LAO',
    'TIFINAGH',
    'OGHAM',
    'LISU',
    'CANADIAN SYLLABICS',
    'OLD ITALIC',
)


def font_dir() -> Path:
    """Return the folder of matplotlib's TrueType fonts."""
    import matplotlib  # its import is slow, and only a process that draws needs it

    return Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'


def font_path(name: str) -> Path:
    """Return the path of one font of :data:`FONTS`.

    Raises:
        FileNotFoundError: matplotlib does not ship this font (any more).
    """
    path = font_dir() / name
    if not path.is_file():
        raise FileNotFoundError(f'matplotlib ships no font {name!r} in {path.parent}; Glyphs needs {", ".join(FONTS)}')
    return path


def font_sha256(name: str) -> str:
    """Return the sha256 of a font file, in hexadecimal digits."""
    return hashlib.sha256(font_path(name).read_bytes()).hexdigest()


def script_of(char: str) -> str | None:
    """Return the script that starts the letter's Unicode name, or None if it starts with none of :data:`SCRIPTS`."""
    name = unicodedata.name(char, '')
    return next((script for script in SCRIPTS if name.startswith(script + ' ')), None)


def is_plain_letter(char: str) -> bool:
    """Say whether a character is a letter of a script and no compatibility form of another one.

    Presentation forms, ligatures and superscripts (whose NFKC form is another string) are left out; letters with an
    accent (canonical compositions) are kept.
    """
    if unicodedata.category(char)[0] != 'L' or script_of(char) is None:
        return False
    return unicodedata.normalize('NFKC', char) == unicodedata.normalize('NFC', char)


@cache
def covered_letters() -> dict[int, tuple[str, ...]]:
    """Map every plain letter's code point to the fonts whose character map has it, in the order of :data:`FONTS`."""
    from fontTools.ttLib import TTFont  # only the script that writes the splits needs it

    fonts: dict[int, list[str]] = {}
    for name in FONTS:
        with TTFont(font_path(name), lazy=True) as font:
            for code in font.getBestCmap():
                if is_plain_letter(chr(code)):
                    fonts.setdefault(code, []).append(name)
    return {code: tuple(fonts[code]) for code in sorted(fonts)}
