"""What training and testing change in a config before a runner sees it. Pure functions on configs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from .run_folder import ROOT, name_run, run_folder

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_STOCK_SCOPES = ('', 'mmengine', 'mmpretrain')


def stock_name(node: Any) -> str | None:
    """Return the bare name of a config's type where it is mmengine's, mmpretrain's or ours, else None."""
    if not isinstance(node, Mapping):
        return type(node).__name__
    kind = node.get('type')
    if isinstance(kind, str):
        scope, _, name = kind.rpartition('.')
        return name if scope in (*_STOCK_SCOPES, 'mmlora') else None
    return getattr(kind, '__name__', None)


def replace_type(node: Any, table: Mapping[str, str]) -> None:
    """Replace a stock type by ours, in place, where the table has one and the config does not name ours already."""
    if not isinstance(node, dict) or 'type' not in node:
        return
    if isinstance(node['type'], str) and node['type'].startswith('mmlora.'):
        return
    name = stock_name(node)
    if name in table:
        node['type'] = table[name]


def set_work_dir(cfg: Config, work_dir: str | None, used: Mapping[str, Any] | None = None) -> None:
    """Set the folder of a run: as given, else the config's own, else by its ``run_folder``, else by its file's name.

    The last is ``work_dirs/<name of the config file>``, with a folder for each setting of the variables; the one before
    it is described in :mod:`mmlora.apis.run_folder`.

    Args:
        cfg: The config.
        work_dir: The folder asked for.
        used: The variables of the run, as :func:`mmlora.apis.settle_variables` returns them.

    Raises:
        ValueError: None is given and the config does not come from a file, or its ``run_folder`` cannot be used.
    """
    used = used or {}
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif not cfg.get('work_dir'):
        folder = run_folder(cfg, used)
        if folder is None and not cfg.filename:
            raise ValueError('the config was not read from a file and has no work_dir: say where results go')
        cfg.work_dir = folder or str(Path(ROOT) / Path(cfg.filename).stem / name_run(cfg, used))


def set_loader_options(cfg: Config, pin_memory: bool = True, persistent_workers: bool = True) -> None:
    """Complete the options of the data loaders with what fits this machine.

    Args:
        cfg: The config.
        pin_memory: False turns it off; it is never on without CUDA.
        persistent_workers: False turns it off; it is never on without worker processes.
    """
    for name in LOADERS:
        loader = cfg.get(name)
        if not isinstance(loader, dict):
            continue
        loader.setdefault('collate_fn', dict(type='default_collate'))
        possible = {
            'pin_memory': pin_memory and torch.cuda.is_available(),
            'persistent_workers': persistent_workers and loader.get('num_workers', 0) > 0,
        }
        for option, allowed in possible.items():
            loader[option] = bool(allowed and loader.get(option, True))


def find_hook(cfg: Config, name: str) -> Any | None:
    """Return the custom hook of that type, or None."""
    return next((hook for hook in cfg.get('custom_hooks') or [] if stock_name(hook) == name), None)


def add_hook(cfg: Config, name: str, **options: Any) -> Any:
    """Return the custom hook of that type from the config, after adding it where it is not listed."""
    hook = find_hook(cfg, name)
    if hook is None:
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type=f'mmlora.{name}', **options)]
        hook = cfg.custom_hooks[-1]
    return hook
