"""The adapter of a backbone or classifier as a folder, with what its run knows; see :mod:`mmlora.io.lora_folder`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from ..adapters import LoRAWeights, adapter_modules, adapter_tensor_names, find_banks, find_tuning, read_lora
from ..adapters.lora import LoRALinear
from ..adapters.sliced import SlicedLoRALinear
from ..io.adapter_card import adapter_card, of_parts, own_command, rank_rows, shown_path, shown_paths
from ..io.kind_folder import write_kind_folder
from ..io.lora_folder import Head, write_lora_folder
from ..models.backbones.ranks import pretrained_checkpoint
from ..models.pretrained import HEADS
from ..ranks import weights_sha256
from ..version import __version__
from .base_weights import base_sha256
from .protocol import describe_run

VALIDATION = 'validation'
Z = 1.959963984540054  # 97.5 % point of the normal distribution


def find_backbone(model: nn.Module) -> nn.Module:
    """Return the backbone of a classifier, or the model itself."""
    inner = getattr(model, 'backbone', None)
    return inner if isinstance(inner, nn.Module) else model


def find_classifier(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Return name and layer of the linear classifier of a model, or None."""
    modules = dict(model.named_modules())
    return next(((name, modules[name]) for name in HEADS if name in modules), None)


def read_head(model: nn.Module) -> Head | None:
    """Return a copy of the linear classifier of a model, or None where it has none."""
    found = find_classifier(model)
    if found is None or not isinstance(found[1], nn.Linear):
        return None
    weight, bias = found[1].weight.detach().clone(), found[1].bias
    return Head(weight, weight.new_zeros(len(weight)) if bias is None else bias.detach().clone())


def is_plain_lora(backbone: nn.Module) -> bool:
    """Return whether LoRA is all that adapts a backbone."""
    layers = adapter_modules(backbone).values()
    return bool(layers) and all(type(layer) in (LoRALinear, SlicedLoRALinear) for layer in layers)


def why_no_adapter(model: nn.Module) -> str | None:
    """Say why the backbone of a model has no adapter that a folder can hold, or None where it has one."""
    backbone = find_backbone(model)
    adaptation = getattr(backbone, 'adaptation', None)
    if find_banks(backbone):
        return 'it holds several adapters: name one'
    if adaptation is None and not is_plain_lora(backbone):
        return (f'the {type(backbone).__name__} has no adapter' if not adapter_modules(backbone) else
                'it was not adapted by a backbone of this package, so that nothing says how to do so again')
    if adaptation is not None and not adaptation['frozen']:
        return 'frozen=False let the backbone learn too, so that it is no adapter; tools/export_backbone.py writes that'
    learned = learned_names(backbone)
    if not learned:
        return f'{adaptation["kind"]} learns nothing in the backbone'
    if learned >= {name for name, _ in backbone.named_parameters()}:
        return f'{adaptation["kind"]} learns all of the backbone; tools/export_backbone.py writes that'
    return None


def learned_names(backbone: nn.Module) -> set[str]:
    """Return the keys of the state of a backbone that its adaptation brought or let learn."""
    tuning = find_tuning(backbone)
    names = adapter_tensor_names(backbone) | (tuning.learned(backbone) if tuning else set())
    for name, module in backbone.named_modules():
        if isinstance(module, _NormBase) and f'{name}.bias' in names and module.track_running_stats:
            names |= {f'{name}.{own}' for own, _ in module.named_buffers(recurse=False)}  # They moved with it.
    return names


def frozen_sha256(backbone: nn.Module, learned: set[str]) -> str:
    """Return the hash of what did not learn in a backbone, as float32.

    Some kinds let weights of the backbone itself learn, of which nobody knows what they were before.
    """
    return weights_sha256({name: torch.atleast_1d(value.float()) for name, value in backbone.state_dict().items()
                           if name not in learned})


def write_adapter(
    folder: str | Path,
    model: nn.Module,
    record: Mapping[str, Any],
    head: Head | None,
    weights: LoRAWeights | None = None,
    library: str | None = None,
) -> Path:
    """Write the adapter of a model.

    Args:
        folder: The folder to write.
        model: A backbone or classifier with one adapter.
        record: What is known of it besides kind, ranks and base weights.
        head: Its head, or None.
        weights: The LoRA, where the model holds several.
        library: As for :func:`mmlora.io.lora_folder.write_lora_folder`.

    Raises:
        ValueError: There is no adapter to write, or the folder holds other things.
    """
    backbone = find_backbone(model)
    reason = why_no_adapter(model) if weights is None else None
    if reason:
        raise ValueError(f'there is no adapter to write: {reason}')
    lora = weights if weights is not None else read_lora(backbone) if is_plain_lora(backbone) else None
    table = getattr(backbone, 'rank_table', None)
    table = table.to_dict() if table is not None and table.rows else None
    learned = None if lora is not None else learned_names(backbone)
    base = {'name': pretrained_checkpoint(getattr(backbone, 'init_cfg', None)), **record.get('base', {})}
    base['name'] = base['name'] and shown_path(base['name'])
    record = dict(dict(version=__version__, backbone=type(backbone).__name__), **record)
    digest = base_sha256(backbone) if learned is None else frozen_sha256(backbone, learned)
    record |= dict(base=dict(base, sha256=digest), rank_table=table, commands=record.get('commands') or own_command())
    if lora is not None:
        record['parameters'] = sum(pair.a.numel() + pair.b.numel() for pair in lora.values())
        names = f'models of {library}' if library else 'the plain backbone'
        card = adapter_card(record, rank_rows(lora), 'LoRA', names)
        return write_lora_folder(folder, lora, record, head, card, library)
    if library is not None:
        raise ValueError(f'library={library!r} has no {backbone.adaptation["kind"]}: only LoRA has its names there')
    state = backbone.state_dict()
    tensors = {name: value for name, value in state.items() if name in learned}
    record |= dict(adaptation=backbone.adaptation, parameters=sum(
        value.numel() for name, value in backbone.named_parameters() if name in learned))
    ranks = {name: f'{of_parts(layer.ranks)} | {of_parts(layer.scalings)}'
             for name, layer in adapter_modules(backbone).items() if hasattr(layer, 'ranks')}
    card = adapter_card(record, ranks, backbone.adaptation['kind'], None)
    return write_kind_folder(folder, tensors, record, head, card)


def write_run_adapter(
    folder: str | Path,
    cfg: Config,
    model: nn.Module,
    protocol: Mapping[str, Any] | None,
    metrics: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    library: str | None = None,
    commands: Sequence[str] = (),
) -> Path:
    """Write the adapter of a run, with its head, classes, preparation of images and results.

    Args:
        folder: The folder to write.
        cfg: The config of the run.
        model: The trained model.
        protocol: Labels of the run and where it stood; by default of the config.
        metrics: Rows of :func:`result_row`.
        classes: Their names.
        library: As for :func:`write_adapter`.
        commands: Those by which it came about.
    """
    prepared = model.data_preprocessor
    mean, std = (getattr(prepared, name, None) for name in ('mean', 'std'))
    norm = dict(mean=_numbers(mean, 0.0), std=_numbers(std, 1.0),
                to_rgb=bool(getattr(prepared, 'to_rgb', False)))
    backbone = cfg.model.get('backbone') or {}
    name = pretrained_checkpoint(backbone.get('init_cfg')) or pretrained_checkpoint(
        (backbone.get('backbone') or {}).get('init_cfg')) or cfg.get('load_from')
    record = dict(base=dict(name=name), classes=list(classes or []) or None, normalization=norm,
                  protocol=shown_paths(protocol or describe_run(cfg)), metrics=list(metrics), commands=list(commands))
    return write_adapter(folder, model, record, read_head(model), None, library)


def result_row(data: str, name: str, value: float | None, images: int | None = None) -> dict[str, Any]:
    """Return a result with its 95 % interval, where it is a share of images: Wilson's interval, in percent.

    Args:
        data: Name of the data.
        name: Of the metric.
        value: Of it.
        images: How many were tested, or None where that is not known.
    """
    row = dict(data=data, name=name, value=value if value is None or math.isfinite(value) else None, images=images)
    if images and row['value'] is not None and 'accuracy/top' in name:
        p = row['value'] / 100
        centre, scale = p + Z * Z / (2 * images), 1 + Z * Z / images
        half = Z * math.sqrt(p * (1 - p) / images + Z * Z / (4 * images * images))
        row |= dict(low=100 * (centre - half) / scale, high=100 * (centre + half) / scale)
    return row


def _numbers(value: Tensor | None, default: float) -> list[float]:
    return [default] * 3 if value is None else [float(x) for x in value.flatten()]
