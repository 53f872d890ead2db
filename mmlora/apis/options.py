"""Options of the command line that replace settings of a config."""

import difflib
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

CLOSE = 0.85
"""Similarity of names from which a new one is taken for a mistyped old one; see ``difflib.SequenceMatcher``."""


def merge_options(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Replace settings of a config, in place, by dotted key.

    A key that the config does not have may be new on purpose. One that is nearly the name of another is refused: it
    would have no effect, and nobody would notice.

    Args:
        cfg: The config.
        options: What ``--cfg-options`` holds.

    Raises:
        ValueError: A key looks like a mistyped one.
    """
    for key in options or {}:
        _check(cfg, key)
    cfg.merge_from_dict(dict(options or {}))


def _check(cfg: Config, key: str) -> None:
    node: Any = cfg
    for part in key.split('.'):
        if isinstance(node, (list, tuple)):
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
            continue
        if not hasattr(node, 'keys'):
            return
        if part not in node:
            close = difflib.get_close_matches(part, [name for name in node if isinstance(name, str)], 1, CLOSE)
            if close:
                raise ValueError(
                    f'the option {key!r} sets {part!r}, which the config does not have; did you mean {close[0]!r}? If '
                    'it is new on purpose, write it into a config that inherits'
                )
            return
        node = node[part]
