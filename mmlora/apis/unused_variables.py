"""Variables of a config that nothing in it refers to, and which therefore do nothing."""

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from .options import CLOSE
from .run_folder import named_in_folder
from .variables import LIMITS, referred_variables


def refuse_idle_options(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Refuse options that set a variable which neither data, schedule nor hooks refer to.

    A ``run_folder`` does not count: the folder would be named after a setting that the run does not have.

    Args:
        cfg: The config with the options in it, its variables not settled yet or those of an earlier run.
        options: What ``--cfg-options`` holds; only names in :data:`mmlora.apis.variables.LIMITS` are looked at.

    Raises:
        ValueError: Such an option has no effect.
    """
    used = referred_variables(cfg)
    idle = [name for name in options or {} if name in LIMITS and name not in used]
    if idle:
        raise ValueError(f'{cfg.filename}: nothing in the config refers to {", ".join(idle)}, so that setting it '
                         'has no effect: leave it out')


def warn_of_mistyped_variables(cfg: Config) -> None:
    """Warn of each name at the top of a config that does nothing and is nearly that of a variable.

    Args:
        cfg: A whole config, its variables not settled yet.
    """
    used = referred_variables(cfg) | named_in_folder(cfg)
    for name in sorted(set(cfg.keys()) - used):
        close = difflib.get_close_matches(name, sorted(used), 1, CLOSE)
        if close:
            print_log(f'The config sets {name!r}, which nothing in it refers to, so that it has no effect; did you '
                      f'mean {close[0]!r}?', logger='current', level=logging.WARNING)
