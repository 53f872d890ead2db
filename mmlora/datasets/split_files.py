"""Where the committed class splits and few-shot lists lie, in a checkout and in an installed wheel."""

import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
_ROOTS = (_PACKAGE.parent / 'data_splits', _PACKAGE / '.mim' / 'data_splits')


def split_path(name: str) -> Path:
    """Find a file of ``data_splits/``.

    Args:
        name: Path below ``data_splits/``, such as ``'glyphs/test.json'``.

    Returns:
        The absolute path of the file.

    Raises:
        FileNotFoundError: Neither the checkout nor the installed package has the file.
    """
    for root in _ROOTS:
        path = root / name
        if path.is_file():
            return path
    looked = ', '.join(str(root) for root in _ROOTS)
    raise FileNotFoundError(f'no split file {name!r} under {looked}; reinstall mmlora or run from a full checkout')


def load_split(name: str) -> dict[str, Any]:
    """Read a JSON file of ``data_splits/``; see :func:`split_path`."""
    return json.loads(split_path(name).read_text(encoding='utf-8'))
