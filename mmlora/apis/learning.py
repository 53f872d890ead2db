"""What a run says when it begins: what learns, in the place of long lists of what does not, and what it replaces."""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from ..adapters import adapter_tensor_names, parameter_report
from ..engine import StableRankHook
from ..engine.adaptation import unwrap_model
from ..ranks import RankTable
from .resuming import POINTER

_MISSING = re.compile(r'The model and loaded state dict do not match exactly\s+missing keys in source state_dict: (.*)')


class FrozenParameterFilter(logging.Filter):
    """Drop the warning of mmengine's optimizer constructor for each frozen parameter: freezing them is the point."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        return not record.getMessage().endswith(' is skipped since its requires_grad=False')


class FreshAdapterFilter(logging.Filter):
    """Say in one line that pre-trained weights hold no adapters, where mmengine warns of a list of missing keys.

    Args:
        adapters: Names of the adapter tensors of the model. A list with any other key is left as it is.
    """

    def __init__(self, adapters: Collection[str]) -> None:
        super().__init__()
        self.adapters = adapters

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True, after changing the record."""
        found = _MISSING.fullmatch(record.getMessage().strip())
        keys = found[1].split(', ') if found else []
        if keys and all(any(name == key or name.endswith(f'.{key}') for name in self.adapters) for key in keys):
            record.msg = f'All frozen weights are loaded; the {len(keys)} tensors of the adapters start fresh.'
            record.args, record.levelno, record.levelname = (), logging.INFO, 'INFO'
        return True


def announce_learning(runner: Runner) -> None:
    """Log how many parameters learn and which ranks were chosen, and keep what is frozen or fresh out of the log."""
    model = unwrap_model(runner.model)
    report = str(parameter_report(model))
    runner.logger.info(report.splitlines()[0])
    table = runner.cfg.get('rank_table')
    if table and not any(isinstance(hook, StableRankHook) for hook in runner.hooks):  # which says it itself
        runner.logger.info(f'Ranks:\n{RankTable.from_dict(table, "cfg.rank_table")}')
    runner.logger.addFilter(FrozenParameterFilter())
    runner.logger.addFilter(FreshAdapterFilter(adapter_tensor_names(model)))


def warn_of_random_weights(runner: Runner) -> None:
    """Warn where what is frozen was drawn at random, since the config names no pre-trained weights."""
    frozen = sum(p.numel() for p in unwrap_model(runner.model).parameters() if not p.requires_grad)
    if frozen and not runner.cfg.get('load_from') and not runner.cfg.get('resume') and not _is_loaded(runner.cfg.model):
        runner.logger.warning(
            f'{frozen:,} weights are frozen, and the config names no pre-trained ones: they stay as they were drawn at '
            "random. Give the backbone init_cfg=dict(type='Pretrained', checkpoint=...), or set load_from."
        )


def _is_loaded(node: Any) -> bool:
    """Return whether a part of a config takes its initial weights from a file."""
    if isinstance(node, Mapping):
        named = str(node.get('type')).endswith('Pretrained') or bool(node.get('pretrained'))
        return named or any(map(_is_loaded, node.values()))
    return isinstance(node, (list, tuple)) and any(map(_is_loaded, node))


def warn_of_earlier_run(runner: Runner) -> None:
    """Warn where a fresh run is about to replace the checkpoints of an earlier one."""
    if not runner.cfg.get('resume') and (Path(runner.work_dir) / POINTER).is_file():
        runner.logger.warning(
            f'{runner.work_dir} holds an earlier run, whose checkpoints this one replaces. --work-dir gives this one a '
            'folder of its own, --resume goes on with the earlier one.'
        )
