"""The names under which the sets of a benchmark are known."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any


def plain_name(name: str) -> str:
    """Return a name without what does not count in it: case, ``-``, ``_`` and blanks."""
    return re.sub(r'[-_ ]', '', str(name)).lower()


def spellings_of(sets: Iterable[Any]) -> dict[str, Any]:
    """Return sets by all their names, as :func:`plain_name` gives them.

    Args:
        sets: Each has a ``name``, a ``title``, ``folders`` and other ``spellings``.
    """
    return {
        plain_name(spelling): each
        for each in sets
        for spelling in (each.name, each.title, *each.folders, *each.spellings)
    }


def find_set(name: str, spellings: Mapping[str, Any], benchmark: str) -> Any:
    """Return the set of a name.

    Args:
        name: Any of its names.
        spellings: From :func:`spellings_of`.
        benchmark: Quoted in the error.

    Raises:
        ValueError: There is no such set; the message lists all, and those of a similar name.
    """
    found = spellings.get(plain_name(name))
    if found is None:
        close = dict.fromkeys(
            spellings[match].name for match in difflib.get_close_matches(plain_name(name), list(spellings))
        )
        meant = f'; did you mean {" or ".join(map(repr, close))}?' if close else ''
        known = ', '.join(dict.fromkeys(each.name for each in spellings.values()))
        raise ValueError(f'{benchmark} has no set {name!r}; choose from {known}{meant}')
    return found
