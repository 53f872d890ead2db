"""Which linear layers a pattern means."""

import difflib
import re
from collections.abc import Iterable, Sequence

import torch.nn as nn

from .low_rank import LowRankLinear


def linear_names(model: nn.Module) -> list[str]:
    """Return the names of all linear layers that are not adapted yet, in the order of the model."""
    return [
        name for name, m in model.named_modules() if isinstance(m, nn.Linear) and not isinstance(m, LowRankLinear)
    ]


def matches(pattern: str, name: str) -> bool:
    r"""Return whether a pattern means a module.

    A pattern is a whole name (``layers.0.attn.qkv``), a suffix of whole components (``attn.qkv``, which does not mean
    ``my_attn.qkv``), or a regular expression for the whole name (``layers\.[0-5]\.attn\..*``).

    Raises:
        ValueError: The pattern is neither a name nor a valid regular expression.
    """
    if name == pattern or name.endswith('.' + pattern):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ValueError(f'pattern {pattern!r} is not a valid regular expression: {error}') from error


def near_misses(pattern: str, names: Iterable[str], most: int = 5) -> list[str]:
    """Return the names, or suffixes of names, that look most like a pattern."""
    suffixes: dict[str, None] = {}
    for name in names:
        parts = name.split('.')
        for start in range(len(parts)):
            suffixes.setdefault('.'.join(parts[start:]))
    return difflib.get_close_matches(pattern, suffixes, n=most, cutoff=0.4)


def select(patterns: Sequence[str], names: Sequence[str], what: str = 'linear layer') -> list[str]:
    """Return the names that any of the patterns means, in the order of ``names``.

    Raises:
        ValueError: A pattern means none of the names; near misses are listed.
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            close = near_misses(pattern, names) or list(names[:5])
            raise ValueError(f'pattern {pattern!r} matches no {what} of the {len(names)} there are; near: {close}')
    return [name for name in names if any(matches(pattern, name) for pattern in patterns)]
