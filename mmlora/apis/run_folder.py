"""What the folder of a run is called: after its variables, or by a text in its config.

In ``run_folder = 'clip-lora/{dataset_name}/{shot}shots/seed{seed}'`` names in braces are variables of the config;
``{seed}`` is the seed of the run.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmengine.config import Config

ROOT = 'work_dirs'
_BRACES = re.compile(r'\{([^{}]*)\}')
_SEED = 'seed'


def run_folder(cfg: Config, used: Mapping[str, Any]) -> str | None:
    """Return the folder that the text ``run_folder`` of a config means, below ``work_dirs``.

    What tells runs apart and is not in the text is added to the last part of the folder, as in ``seed1_base_to_new``.

    Args:
        cfg: A whole config, whose variables are settled.
        used: The variables of the run, as :func:`mmlora.apis.settle_variables` returns them.

    Returns:
        The folder, or None where the config has no such text.

    Raises:
        ValueError: The text is empty or leads elsewhere, or names a variable that the config does not have or
            whose value cannot be a part of a folder's name.
    """
    text = cfg.get('run_folder')
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip() or PurePosixPath(text).is_absolute() or '\\' in text:
        raise ValueError(f"run_folder must be a text such as 'clip-lora/{{dataset_name}}', relative to {ROOT}, got "
                         f'{text!r}')
    named = _BRACES.findall(text)
    filled = _BRACES.sub(lambda found: _value(cfg, found[1], text), text)
    if '{' in filled or '}' in filled or '..' in PurePosixPath(filled).parts:
        raise ValueError(f'run_folder = {text!r} has a single brace or leads out of {ROOT}')
    others = [_label(name, value) for name, value in used.items()
              if name not in (*named, _SEED) and value is not False]
    return str(Path(ROOT) / '_'.join([filled.rstrip('/'), *others]))


def named_in_folder(cfg: Config) -> set[str]:
    """Return the names of the variables in the text ``run_folder`` of a config; none where it has no such text."""
    text = cfg.get('run_folder')
    return set(_BRACES.findall(text)) if isinstance(text, str) else set()


def name_run(cfg: Config, used: Mapping[str, Any]) -> str:
    """Return a name for the folder of a run, such as ``shot5_split2_seed0``.

    Args:
        cfg: A whole config, for the seed; a seed that is drawn by chance is left out.
        used: The variables of the run; a value of None reads ``full`` for ``shot`` and else ``none``, True is the name
            alone and False is left out. Without any variable the name is empty.
    """
    if not used:
        return ''
    seed = (cfg.get('randomness') or {}).get('seed')
    named = {name: value for name, value in used.items() if name != _SEED}
    if seed is not None:
        named[_SEED] = seed
    return '_'.join(_label(name, value) for name, value in named.items() if value is not False)


def _label(name: str, value: Any) -> str:
    if value is True:
        return name
    if value is None:
        return f'{name}-{_nothing(name)}'
    return f'{name}-{value}' if isinstance(value, str) else f'{name}{value}'


def _nothing(name: str) -> str:
    return 'full' if name == 'shot' else 'none'


def _value(cfg: Config, name: str, text: str) -> str:
    if name == _SEED and name not in cfg:
        value = (cfg.get('randomness') or {}).get('seed')
        if value is None:
            raise ValueError(f'run_folder = {text!r} has the seed of the run in it, but randomness.seed is None: set '
                             'it, or say where results go')
    elif name not in cfg:
        raise ValueError(f'run_folder = {text!r} refers to the variable {name!r}, which the config does not define: '
                         f'add {name} = ..., or leave it out')
    else:
        value = cfg[name]
    if value is None:
        return _nothing(name)
    written = str(value)
    if not isinstance(value, str | int | float) or not written or {'/', '\\'} & set(written) or written in ('.', '..'):
        raise ValueError(f'run_folder = {text!r} has {name}={value!r} in it, which cannot be a part of a folder\'s '
                         'name: give it a number, or a text without slashes')
    return written
