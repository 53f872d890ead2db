"""Variables of a config that may be set from the command line.

``--cfg-options`` changes a config after Python has run it, so that a name that was used inside, as in an f-string,
keeps its old value. A data set of a config therefore refers to a top-level variable by the text ``'{shot}'``, which
becomes the value of ``cfg.shot`` once all options are known. Inside a longer text, as in
``'few_shot/train_{shot}-shot_exp{split}.txt'``, the value is written out.
"""

import re
from typing import Any

from mmengine.config import Config

from .prepare import LOADERS

LIMITS = {'shot': 'a whole number of at least 1, or None for all images', 'split': 'a whole number of at least 1'}
_REFERENCE = re.compile(r'\{(\w+)\}')


def settle_variables(cfg: Config) -> dict[str, Any]:
    """Replace the references to variables in the data sets of a config by their values, in place.

    What was settled is kept in ``cfg.settled_variables``.

    Args:
        cfg: A whole config; only its data loaders are searched.

    Returns:
        The variables that were referred to and their values; empty the second time.

    Raises:
        ValueError: A variable is not defined at the top level of the config, its value is out of range, or
            it was changed after the data sets had been settled.
    """
    earlier = dict(cfg.get('settled_variables') or {})
    changed = {name: cfg.get(name) for name, value in earlier.items() if cfg.get(name) != value}
    if changed:
        raise ValueError(
            f'{changed} comes too late: this is the config of a run, whose data sets were settled with {earlier}. Set '
            'it on the config that the run began with'
        )
    used: dict[str, Any] = {}
    for name in LOADERS:
        if isinstance(cfg.get(name), dict):
            _settle(cfg[name], cfg, name, used)
    if used:
        cfg.settled_variables = {**earlier, **used}
    return used


def name_run(cfg: Config, used: dict[str, Any]) -> str:
    """Return a name for the folder of a run, such as ``shot5_split2_seed0``.

    Args:
        cfg: A whole config, for the seed; a seed that is drawn by chance is left out.
        used: The variables of the run; a value of None reads ``full``. Without any the name is empty.
    """
    if not used:
        return ''
    seed = (cfg.get('randomness') or {}).get('seed')
    named = used if seed is None else {**used, 'seed': seed}
    return '_'.join(f'{name}{"-full" if value is None else value}' for name, value in named.items())


def _settle(node: Any, cfg: Config, where: str, used: dict[str, Any]) -> None:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        place = f'{where}.{key}'
        if isinstance(value, (dict, list)):
            _settle(value, cfg, place, used)
        elif isinstance(value, str):
            names = _REFERENCE.findall(value)
            used.update({name: _value(cfg, name, place) for name in names})
            if names and value == f'{{{names[0]}}}':
                node[key] = used[names[0]]
            elif names:
                node[key] = _REFERENCE.sub(lambda found, place=place: _written(used, found[1], place), value)


def _written(used: dict[str, Any], name: str, place: str) -> str:
    if used[name] is None:
        raise ValueError(f'{place} writes {name!r} into a text, but its value is None: give a number')
    return str(used[name])


def _value(cfg: Config, name: str, place: str) -> Any:
    if name not in cfg:
        raise ValueError(f'{place} refers to the variable {name!r}, which the config does not define: add {name} = ...')
    value = cfg[name]
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if name in LIMITS and not whole and not (value is None and name == 'shot'):
        raise ValueError(f'{name} must be {LIMITS[name]}, got {value!r}')
    return value
