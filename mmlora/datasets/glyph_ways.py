"""Ways of writing: numbered distortions of Glyphs, a family without end whose members do different things to letters.

A way is mostly one of four: turned, bent and moved, covered with noise, or faint; how much of each it is, is drawn by
the number. Tasks in different ways need different features, and a few images show which way it is.
"""

import re
from types import MappingProxyType

import numpy as np

from ..randomness import derive_seed

PREFIX = 'way-'
FIRST = MappingProxyType({'train': 0, 'val': 10_000, 'test': 20_000})
"""Number of the first way of each split; no two splits share one."""
_CONCENTRATION = 0.25  # Of the Dirichlet distribution; below 1, most ways are near a corner.
_LEAST = MappingProxyType(dict(
    rotation=15, scale=0.2, stretch=0.2, shear=0.2, shift=3.5, wave=1.0, blur=0.8, contrast=0.25, noise=0.1))
"""The distortion of the benchmark, which pre-training saw."""
_MORE = MappingProxyType({
    'turned': dict(rotation=165),
    'bent': dict(wave=3.0, shear=0.6, shift=3.5, scale=0.4),
    'noisy': dict(noise=0.8, contrast=0.35),
    'faint': dict(blur=3.2, contrast=0.6),
})
"""What each kind adds at its most; the parts of a way add up to 1."""


def way_parts(number: int) -> dict[str, float]:
    """Return how much of each kind a way is; the parts add up to 1.

    Args:
        number: Of the way, at least 0.
    """
    rng = np.random.default_rng(derive_seed('way of writing', number))
    parts = rng.dirichlet([_CONCENTRATION] * len(_MORE))
    return dict(zip(_MORE, parts.tolist(), strict=True))


def way_of_writing(name: str) -> dict[str, float] | None:
    """Return the fields of :class:`~mmlora.datasets.glyph_render.Distortion` of a way; None for what is no way's name.

    Args:
        name: ``'way-<number>'``.
    """
    if not re.fullmatch(f'{PREFIX}[0-9]+', name):
        return None
    found = dict(_LEAST)
    for kind, part in way_parts(int(name.removeprefix(PREFIX))).items():
        for field, more in _MORE[kind].items():
            found[field] += part * more
    return found
