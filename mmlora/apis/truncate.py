"""Cutting a trained adapter to its first components: a checkpoint of a lower rank."""

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from ..adapters import sub_rank_layers
from ..adapters.at_rank import check_point, rank_at
from ..engine.adaptation import describe_adaptation
from ..io.atomic import write_bytes
from ..io.checkpoint import load_checkpoint
from ..io.plain import plain_checkpoint
from ..registry import MODELS
from .settle import settle_ranks
from .variables import settle_variables


def truncate_checkpoint(
    cfg: Config, checkpoint: str, out: str, *, rank: int | None = None, fraction: float | None = None
) -> Path:
    """Write a checkpoint whose model has the first components only, and computes what :func:`rank_curve` measured.

    The file holds the weights and carries the lower ranks and their scalings, so that ``tools/test.py`` takes it with
    the config of the original. There is no state of the optimizer in it.

    Args:
        cfg: The config; it is not changed.
        checkpoint: The trained checkpoint.
        out: The file to write, ending in ``.pth``.
        rank: Number of components, at least 1; layers of a lower rank keep all theirs.
        fraction: Instead of a rank the fraction of each layer's rank, in (0, 1], rounded up.

    Returns:
        The file that was written.

    Raises:
        ValueError: Not just one of rank and fraction is given, it is out of range, ``out`` has another ending, or the
            checkpoint does not fit the config.
        TypeError: The rank is not an integer, or a layer is of a kind that has no sub-ranks.
        FileNotFoundError: There is no such checkpoint.
    """
    check_point(rank, fraction)
    if Path(out).suffix != '.pth':
        raise ValueError(f'{out!r} must end in .pth')
    cfg = copy.deepcopy(cfg)
    settle_variables(cfg)
    trained = load_checkpoint(checkpoint)
    settle_ranks(cfg, checkpoint=checkpoint)
    cfg.pop('rank_table', None)
    _cut_ranks(cfg.model, rank, fraction)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        model = MODELS.build(cfg.model)
    state = dict(trained.get('state_dict', trained))
    for name, layer in sub_rank_layers(model).items():
        rows_of_a = [id(a) for a, _ in layer.factors().values()]
        for key, parameter in layer.adapter_parameters().items():
            axis = 0 if id(parameter) in rows_of_a else 1  # A is (r, in), B is (rows, r).
            _cut(state, f'{name}.{key}', axis, parameter, rank, fraction)
    model.load_state_dict(state, strict=True)
    meta = copy.deepcopy(dict(trained.get('meta') or {}))
    meta['mmlora'] = {**(meta.get('mmlora') or {}), **describe_adaptation(model)}
    meta['mmlora']['truncated'] = {'rank': rank, 'fraction': fraction}
    content = io.BytesIO()
    torch.save(plain_checkpoint(dict(meta=meta, state_dict=model.state_dict())), content)
    return write_bytes(out, content.getvalue())


def _cut_ranks(node: Any, rank: int | None, fraction: float | None) -> None:
    """Lower every ``lora_ranks`` of a config, in place."""
    if isinstance(node, list | tuple):
        for value in node:
            _cut_ranks(value, rank, fraction)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if key == 'lora_ranks':
                node[key] = _lower(value, rank, fraction)
            else:
                _cut_ranks(value, rank, fraction)


def _lower(ranks: Any, rank: int | None, fraction: float | None) -> Any:
    if isinstance(ranks, Mapping):
        return {key: _lower(value, rank, fraction) for key, value in ranks.items()}
    if isinstance(ranks, list | tuple):
        return [_lower(value, rank, fraction) for value in ranks]
    return rank_at(ranks, rank, fraction) if ranks else ranks


def _cut(
    state: dict[str, Tensor], key: str, axis: int, like: Tensor, rank: int | None, fraction: float | None
) -> None:
    """Cut one factor of a state dict along its components to what a layer of the lower rank holds, in place."""
    if key not in state:
        raise ValueError(f'the checkpoint has no {key}: its layers are adapted in another way than the config says')
    whole = state[key]
    cut = whole.narrow(axis, 0, rank_at(whole.shape[axis], rank, fraction))
    if cut.shape != like.shape:
        raise ValueError(
            f'{key} is {tuple(whole.shape)} and cut {tuple(cut.shape)}, but the lowered ranks of the config ask for '
            f'{tuple(like.shape)}: give the ranks of the checkpoint as lora_ranks in the config'
        )
    state[key] = cut.clone()
