"""A misspelt ``type`` in a config gets an answer that helps."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine import registry as root
from mmengine.config import Config
from mmengine.registry import Registry

_UNKNOWN = re.compile(r"([\w.:]+) is not in the (?:([\w.]+)::)?([\w \-]+?) registry")


@contextmanager
def explain_unknown_types() -> Iterator[None]:
    """Turn mmengine's error for a name that no registry knows into one that lists near misses.

    Raises:
        ValueError: Inside the block, something was built whose type is unknown.
    """
    try:
        yield
    except KeyError as error:
        found = _UNKNOWN.search(str(error))
        if found is None:
            raise
        raise ValueError(unknown_type_message(found[1], found[3])) from error


def check_optimizer(cfg: Config) -> None:
    """Check the optimizer's type, for which mmengine has no error of its own.

    Args:
        cfg: A training config.

    Raises:
        ValueError: The type is unknown.
    """
    name = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(name, str):
        with root.OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            if registry.get(name) is None:
                raise ValueError(unknown_type_message(name, registry.name))


def unknown_type_message(name: str, kind: str) -> str:
    """Say that a type is unknown, and which ones it may have meant.

    Args:
        name: The type as written in the config.
        kind: The name of the registry, such as ``model`` or ``hook``.
    """
    known = sorted(_known_names(kind))
    bare = name.rpartition('.')[2]
    by_lower = {candidate.lower(): candidate for candidate in reversed(known)}
    close = [by_lower[match] for match in difflib.get_close_matches(bare.lower(), by_lower, n=3, cutoff=0.6)]
    hint = f'did you mean {" or ".join(repr(c) for c in close)}?' if close else f'{len(known)} names are known.'
    return (f'the config asks for the {kind} {name!r}, which no package has registered; {hint} A type of a package of '
            'your own needs custom_imports=dict(imports=[...]) in the config')


def _known_names(kind: str) -> set[str]:
    roots = [r for r in vars(root).values() if isinstance(r, Registry) and r.name == kind]
    names: set[str] = set()
    while roots:
        registry = roots.pop()
        names.update(registry.module_dict)
        roots.extend(registry.children.values())
    return names
