"""How a model is adapted, as plain data in the meta of a checkpoint."""

import math
from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from mmengine.model import BaseTTAModel, is_model_wrapper

from ..adapters import AdaptedLayer, adapter_modules, added_modules
from ..models.backbones.adapt import find_adapted
from ..models.clip import LoRACLIPClassifier
from ..models.clip.settings import describe_clip
from ..ranks import RankTable
from ..version import __version__


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside parallel and test-time-augmentation wrappers."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def describe_adaptation(model: nn.Module, settled: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Say how a model is adapted.

    Args:
        model: The model, unwrapped.
        settled: The rank table of the config, which holds what a table made from numbers lacks.

    Returns:
        ``version``; ``ranks`` and ``scalings`` of each adapted layer, a number or one for each slice of a fused
        projection; the scalings of added modules; ``rank_table`` where there is one adapted backbone; and of a CLIP
        ``clip``, its settings.
    """
    layers = _layers_with_ranks(model)
    about: dict[str, Any] = {
        'version': __version__,
        'ranks': {name: _plain(layer.ranks) for name, layer in layers.items()},
        'scalings': _scalings(model),
    }
    backbones = list(find_adapted(model).values())
    if len(backbones) == 1 and backbones[0].rank_table.rows:
        own = backbones[0].rank_table
        fits = settled and RankTable.from_dict(settled, 'cfg.rank_table').ranks == own.ranks
        about['rank_table'] = dict(settled) if fits else own.to_dict()
    if isinstance(model, LoRACLIPClassifier):
        about['clip'] = describe_clip(model)
    return about


def check_scalings(model: nn.Module, about: Mapping[str, Any] | None) -> None:
    """Check that a checkpoint's factors are scaled as they were when it was trained.

    Args:
        model: The model, unwrapped.
        about: What :func:`describe_adaptation` said, or None for checkpoints that say nothing.

    Raises:
        ValueError: A scaling differs; both are quoted.
    """
    given = (about or {}).get('scalings') or {}
    for name, own in _scalings(model).items():
        if name in given and not _close(given[name], own):
            raise ValueError(
                f'{name} was trained with the scaling {given[name]}, the model has {own}: set lora_alpha and '
                'lora_scaling, or scale in adapter_cfg, as in training; the change would have another size'
            )


def _layers_with_ranks(model: nn.Module) -> dict[str, AdaptedLayer]:
    return {name: layer for name, layer in adapter_modules(model).items() if hasattr(layer, 'ranks')}


def _scalings(model: nn.Module) -> dict[str, Any]:
    of_layers = {name: _plain(layer.scalings) for name, layer in _layers_with_ranks(model).items()}
    return of_layers | {name: module.scaling for name, module in added_modules(model).items()}


def _plain(by_slice: Mapping[str, Any]) -> Any:
    return by_slice[''] if set(by_slice) == {''} else dict(by_slice)


def _close(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return set(first) == set(second) and all(_close(first[key], second[key]) for key in first)
    return isinstance(first, float) and isinstance(second, float) and math.isclose(first, second, rel_tol=1e-6)
