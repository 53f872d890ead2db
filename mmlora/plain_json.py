"""JSON from files that somebody else may have written."""

import json
from typing import Any

MAX_DEPTH = 64
"""Lists and objects within each other. No file of this package has more than ten; Python gives up at about 1000."""


def parse_json(text: str, **kwargs: Any) -> Any:
    """Return the value that a text in JSON stands for.

    Args:
        text: The text.
        **kwargs: Arguments of ``json.loads``. Of its hooks only those that give lists, tuples or dicts.

    Raises:
        ValueError: It is no JSON, is nested deeper than :data:`MAX_DEPTH`, or holds a whole number of thousands of
            digits. The caller adds the name of the file.
    """
    try:
        value = json.loads(text, **kwargs)
    except RecursionError:
        raise ValueError(f'nested deeper than {MAX_DEPTH} levels') from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level if isinstance(node, dict | list | tuple)
                 for child in (node.values() if isinstance(node, dict) else node)
                 if isinstance(child, dict | list | tuple)]
        if not level:
            return value
    raise ValueError(f'nested deeper than {MAX_DEPTH} levels')
