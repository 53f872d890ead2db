"""Variables of a config that may be set from the command line.

``--cfg-options`` changes a config after Python has run it, so that a name that was used inside, as in an f-string,
keeps its old value. A data set or the schedule of a config therefore refers to a top-level variable by the text
``'{shot}'``, which becomes the value of ``cfg.shot`` once all options are known. Inside a longer text, as in
``'few_shot/train_{shot}-shot_exp{split}.txt'``, the value is written out.

One variable may choose the values of others: ``train_split = dict(tune='train', otherwise='trainval')`` is ``'train'``
where ``tune = True`` and ``'trainval'`` where ``tune = False``. A ``val_dataloader`` that refers to ``val_split`` is
left out where that is None. Where data have no validation (``val_dataloader = val_evaluator = None``), an empty
``val_cfg`` of a schedule goes too. The length of a run may follow from ``shot``, as in
``max_iters = dict(per_shot=500)``; see :mod:`mmlora.apis.run_length`.

``'{seed}'`` is the seed of the run, ``cfg.randomness.seed``, for what a data set draws once.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config

from .prepare import LOADERS
from .run_length import is_length_rule, length_of_run


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


LIMITS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    'shot': ('a whole number of at least 1, or None for all images', lambda value: value is None or _whole(value)),
    'split': ('a whole number of at least 1', _whole),
    'seed': ('a whole number of at least 0, set by randomness.seed',
             lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0),
    'train_split': ('the name of a split', _name),
    'val_split': ('the name of a split, or None for no validation', lambda value: value is None or _name(value)),
    'max_iters': ('a whole number of at least 1, or dict(per_shot=...)', _whole),
    'data_root': ('the name of a folder', _name),
    'hub_folder': ('the name of a folder', _name),
    'pool_folder': ('the name of a folder', _name),
    'max_epochs': ('a whole number of at least 1, or dict(from_shot_1=..., ...)', _whole),
}
"""What the variables of the configs here may be."""
PARTS = (*LOADERS, 'val_evaluator', 'test_evaluator', 'train_cfg', 'test_cfg', 'param_scheduler', 'default_hooks',
         'custom_hooks')
"""The parts of a config that may refer to variables."""
PLACES = ('data_root', 'hub_folder', 'pool_folder', 'bank_folder', 'task_vectors')
"""Variables that say where files lie, which does not tell runs apart."""
VALIDATION = ('val_dataloader', 'val_evaluator', 'val_cfg')
_OTHERWISE = 'otherwise'
_SEED, _SHOT = 'seed', 'shot'
_REFERENCE = re.compile(r'\{(\w+)\}')


def settle_variables(cfg: Config) -> dict[str, Any]:
    """Replace the references to variables in the data sets and the schedule of a config by their values, in place.

    What was settled is kept in ``cfg.settled_variables``.

    Args:
        cfg: A whole config; its :data:`PARTS` are searched.

    Returns:
        The variables that data sets referred to and their values, where the value follows from another variable that
        one instead; without those of :data:`PLACES`, and empty the second time. They tell the runs of a config apart.

    Raises:
        ValueError: A variable is not defined at the top level of the config, its value is out of range, or
            it was changed after they had been settled.
    """
    earlier = dict(cfg.get('settled_variables') or {})
    changed = {name: now for name, value in earlier.items() if (now := _look_up(cfg, name)) != value}
    if changed:
        raise ValueError(
            f'{changed} comes too late: this is the config of a run, which was settled with {earlier}. Set '
            'it on the config that the run began with'
        )
    if 'val_dataloader' in cfg and cfg.val_dataloader is cfg.get('val_evaluator') is None and cfg.get('val_cfg') == {}:
        cfg.val_cfg = None  # The data say that there are none to validate on; the schedule has brought an empty loop.
    used: dict[str, Any] = {}
    of_data: set[str] = set()
    switches: dict[str, str] = {}
    for name in PARTS:
        if isinstance(cfg.get(name), dict | list):
            own: dict[str, Any] = {}
            _settle(cfg[name], cfg, name, own, switches)
            used.update(own)
            of_data.update(own if name in LOADERS else ())
            if name == VALIDATION[0] and 'val_split' in own:
                _set_validation(cfg, own['val_split'])
    if used:
        cfg.update({name: used[name] for name in switches})
        chosen = {switch: cfg[switch] for switch in switches.values()}
        cfg.settled_variables = {**earlier, **chosen, **used}
        told = {name: value for name, value in used.items() if name in of_data and name not in (*switches, *PLACES)}
        return told | {switch: cfg[switch] for name, switch in switches.items() if name in of_data}
    return {}


def referred_variables(cfg: Config) -> set[str]:
    """Return the names of the variables that the :data:`PARTS` of a config refer to, or did before they were settled.

    A variable that chooses the value of another, or the length of the run, is one of them.
    """
    found = set(cfg.get('settled_variables') or ())
    for name in PARTS:
        found |= _names_in(cfg.get(name))
    for name in tuple(found):
        rule = cfg.get(name)
        if isinstance(rule, Mapping):
            found |= {_SHOT} if is_length_rule(rule) else {key for key in rule if key != _OTHERWISE}
    return found


def _names_in(node: Any) -> set[str]:
    if isinstance(node, str):
        return set(_REFERENCE.findall(node))
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return set().union(*map(_names_in, inner))


def _set_validation(cfg: Config, split: str | None) -> None:
    if split is None:
        cfg.update(dict.fromkeys(VALIDATION))
    elif cfg.get('val_cfg') is None:
        cfg.val_cfg = {}


def _settle(node: Any, cfg: Config, where: str, used: dict[str, Any], switches: dict[str, str]) -> None:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        place = f'{where}.{key}'
        if isinstance(value, dict | list):
            _settle(value, cfg, place, used, switches)
        elif isinstance(value, str):
            names = _REFERENCE.findall(value)
            used.update({name: _value(cfg, name, place, switches) for name in names})
            if names and value == f'{{{names[0]}}}':
                node[key] = used[names[0]]
            elif names:
                node[key] = _REFERENCE.sub(lambda found, place=place: _written(used, found[1], place), value)


def _written(used: Mapping[str, Any], name: str, place: str) -> str:
    if used[name] is None:
        raise ValueError(f'{place} writes {name!r} into a text, but its value is None: give a '
                         f'{"number" if name in ("shot", "split") else "value"}')
    return str(used[name])


def _value(cfg: Config, name: str, place: str, switches: dict[str, str]) -> Any:
    if name == _SEED and name in cfg:
        raise ValueError(f'{place} refers to the seed of the run, but the config has a variable seed={cfg[name]!r}: '
                         'set randomness.seed instead')
    if name not in cfg and name != _SEED:
        raise ValueError(f'{place} refers to the variable {name!r}, which the config does not define: add {name} = ...')
    value = _look_up(cfg, name)
    if isinstance(value, Mapping) and is_length_rule(value):
        switches[name], value = _SHOT, _by_shot(cfg, name, value)
    elif isinstance(value, Mapping):
        switches[name], value = _choose(cfg, name, value)
    if name in LIMITS and not LIMITS[name][1](value):
        raise ValueError(f'{name} must be {LIMITS[name][0]}, got {value!r}')
    return value


def _look_up(cfg: Config, name: str) -> Any:
    return (cfg.get('randomness') or {}).get('seed') if name == _SEED else cfg.get(name)


def _by_shot(cfg: Config, name: str, rule: Mapping[str, Any]) -> int:
    if _SHOT not in cfg:
        raise ValueError(f'{name} = {dict(rule)} is by the number of images of each class, but the config has no '
                         f'variable {_SHOT}: add {_SHOT} = ..., or give {name} a number')
    return length_of_run(name, rule, cfg[_SHOT])


def _choose(cfg: Config, name: str, choice: Mapping[str, Any]) -> tuple[str, Any]:
    switch = next((key for key in choice if key != _OTHERWISE), None)
    if len(choice) != 2 or _OTHERWISE not in choice:
        raise ValueError(f'{name} = {dict(choice)} must have the name of a variable that is True or False and '
                         f'{_OTHERWISE!r}, as in {name} = dict(tune=..., {_OTHERWISE}=...)')
    if not isinstance(cfg.get(switch), bool):
        raise ValueError(f'{name} = {dict(choice)} is chosen by {switch}, which must be True or False, got '
                         f'{cfg.get(switch)!r}')
    return switch, choice[switch if cfg[switch] else _OTHERWISE]
