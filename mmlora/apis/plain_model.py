"""The model of a config without its adapters."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..registry import MODELS
from .settle import adapted_backbones


def build_plain(cfg: Config | Mapping[str, Any] | str | os.PathLike) -> nn.Module:
    """Build the model of a config without adapters, with the frozen weights that ``init_cfg`` names, in evaluation.

    Args:
        cfg: A config with ``model``, the config of a model itself, or the path of a config file.

    Raises:
        TypeError: It is none of these.
        ValueError: The weights do not fit.
    """
    if isinstance(cfg, (str, os.PathLike)):
        cfg = Config.fromfile(cfg)
    if not isinstance(cfg, Mapping | Config):
        raise TypeError(f'a model, a config or the path of one is needed, got {type(cfg).__name__}')
    node = dict(model=copy.deepcopy(dict(cfg.get('model') or cfg)))
    if cfg.get('data_preprocessor') is not None and cfg.get('model') is not None:
        node['model'].setdefault('data_preprocessor', cfg['data_preprocessor'])
    for backbone, kind in list(adapted_backbones(node)):
        bare = kind.bare_config(backbone)
        backbone.clear()
        backbone.update(bare)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        model = MODELS.build(node['model'])
        if hasattr(model, 'init_weights'):
            model.init_weights()
    model.eval()
    return model
