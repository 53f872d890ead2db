"""Weights that the package brings; each has a model card of the same name beside it."""

from importlib.resources import files
from pathlib import Path


def names() -> list[str]:
    """Return the names of the weights, in alphabetical order."""
    return sorted(Path(str(entry)).stem for entry in files(__name__).iterdir() if entry.name.endswith('.safetensors'))


def hub(name: str) -> Path:
    """Return the folder of a hub of the package; ``LoRAHub.open('mmlora://hub_vit-micro_glyphs-5way')`` calls it.

    Raises:
        FileNotFoundError: The package brings no hub of this name.
    """
    return _folder('hub', 'hub_', name)


def folder(name: str) -> str:
    """Return the absolute path of a folder of the package that is no hub, such as ``'banks_vit-micro_glyphs'``.

    Raises:
        FileNotFoundError: The package brings no folder of this name.
    """
    return str(_folder('folder', 'banks_', name))


def _folder(what: str, begin: str, name: str) -> Path:
    entries = [Path(str(entry)) for entry in files(__name__).iterdir() if entry.name.startswith(begin)]
    known = {entry.name: entry for entry in entries if entry.is_dir()}
    if name not in known:
        raise FileNotFoundError(f'mmlora brings no {what} {name!r}; choose from {", ".join(sorted(known)) or "none"}')
    return known[name]


def path(name: str) -> str:
    """Return the absolute path of weights of the package, or of another file that belongs to them.

    A config writes ``checkpoint='mmlora://vit-micro_glyphs'`` instead, which every loader resolves by this function.

    Args:
        name: Such as ``'vit-micro_glyphs'``; the ending ``.safetensors`` may be left out. A text file is named with its
            ending, as in ``'clip-micro_words.txt'``.

    Raises:
        ValueError: The package brings no file of this name.
    """
    folder = files(__name__)
    if name.endswith('.txt') and folder.joinpath(Path(name).name).is_file():
        return str(folder.joinpath(Path(name).name))
    stem = name.removesuffix('.safetensors')
    if stem not in names():
        raise ValueError(f'mmlora brings no weights {name!r}; choose from {", ".join(names()) or "none"}')
    return str(folder.joinpath(f'{stem}.safetensors'))
