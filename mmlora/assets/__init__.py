"""Weights that the package brings; each has a model card of the same name beside it."""

from importlib.resources import files
from pathlib import Path


def names() -> list[str]:
    """Return the names of the weights, in alphabetical order."""
    return sorted(Path(str(entry)).stem for entry in files(__name__).iterdir() if entry.name.endswith('.safetensors'))


def path(name: str) -> str:
    """Return the absolute path of weights of the package.

    A config writes ``checkpoint='mmlora://vit-micro_glyphs'`` instead, which every loader resolves by this function.

    Args:
        name: Such as ``'vit-micro_glyphs'``; the ending ``.safetensors`` may be left out.

    Raises:
        ValueError: The package brings no weights of this name.
    """
    stem = name.removesuffix('.safetensors')
    if stem not in names():
        raise ValueError(f'mmlora brings no weights {name!r}; choose from {", ".join(names()) or "none"}')
    return str(files(__name__).joinpath(f'{stem}.safetensors'))
