"""Cutting a trained adapter to its first components: a checkpoint of a lower rank."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from ..adapters import SubRankLinear, look_up_kind, sub_rank_layers
from ..adapters.at_rank import check_point, rank_at
from ..engine.adaptation import describe_adaptation
from ..io.atomic import write_atomically
from ..io.checkpoint import load_checkpoint
from ..io.plain import plain_checkpoint
from ..ranks import RankTable
from ..registry import MODELS
from .settle import adapted_backbones, settle_ranks
from .variables import settle_variables


@dataclass(frozen=True)
class Truncation:
    """What a cut left.

    Attributes:
        path: The file that was written.
        limit: ``rank <= 8``, or ``fraction 0.25 of each rank``.
        modules: Number of adapted modules.
        largest: The largest rank before the cut.
        kept: Learned parameters of the adapters after the cut.
        whole: The same before the cut.
    """

    path: Path
    limit: str
    modules: int
    largest: int
    kept: int
    whole: int

    def __str__(self) -> str:
        text = f'{self.modules} modules, {self.limit}, {self.kept:,} of {self.whole:,} adapter parameters'
        if self.kept == self.whole:
            text += f': nothing was cut, as the largest rank is {self.largest}; the file is a copy of the weights'
        return text


def truncate_checkpoint(
    cfg: Config, checkpoint: str, out: str, *, rank: int | None = None, fraction: float | None = None
) -> Truncation:
    """Write a checkpoint whose model has the first components only, and computes what :func:`rank_curve` measured.

    The file holds the weights and carries the lower ranks and their scalings, so that ``tools/test.py`` takes it with
    the config of the original. Its rank table says by which criterion and budget the ranks were chosen before the cut.
    There is no state of the optimizer in it.

    Args:
        cfg: The config; it is not changed.
        checkpoint: The trained checkpoint.
        out: The file to write, ending in ``.pth``.
        rank: Number of components, at least 1; layers of a lower rank keep all theirs.
        fraction: Instead of a rank the fraction of each layer's rank, in (0, 1], rounded up.

    Returns:
        The file that was written, and what was cut.

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
    _check_kinds(cfg)
    trained = load_checkpoint(checkpoint)
    settle_ranks(cfg, checkpoint=checkpoint)
    table = cfg.pop('rank_table', None)
    _cut_ranks(cfg.model, rank, fraction)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        model = MODELS.build(cfg.model)
    state = dict(trained.get('state_dict', trained))
    layers, kept, whole, largest = sub_rank_layers(model), 0, 0, 0
    for name, layer in layers.items():
        rows_of_a = [id(a) for a, _ in layer.factors().values()]
        for key, parameter in layer.adapter_parameters().items():
            axis = 0 if id(parameter) in rows_of_a else 1  # A is (r, in), B is (rows, r).
            before = _cut(state, f'{name}.{key}', axis, parameter, rank, fraction)
            kept, whole = kept + parameter.numel(), whole + before.numel()
            largest = max(largest, before.shape[axis])
    model.load_state_dict(state, strict=True)
    meta = copy.deepcopy(dict(trained.get('meta') or {}))
    meta['mmlora'] = {**(meta.get('mmlora') or {}), **describe_adaptation(model, _cut_table(table, rank, fraction))}
    meta['mmlora']['truncated'] = {'rank': rank, 'fraction': fraction}
    content = plain_checkpoint(dict(meta=meta, state_dict=model.state_dict()))
    path = write_atomically(out, lambda file: torch.save(content, file))
    return Truncation(path, _limit(rank, fraction), len(layers), largest, kept, whole)


def _check_kinds(cfg: Config) -> None:
    # Before the ranks are lowered: a kind may refuse a lower rank for a reason of its own.
    for backbone, _ in adapted_backbones(cfg.model):
        kind = look_up_kind(backbone.get('kind', 'lora'))
        if not issubclass(kind, SubRankLinear):
            own = backbone['kind']
            raise TypeError(f'kind={own!r} is a kind of adapter that has no sub-ranks: only LoRA can be cut')


def _limit(rank: int | None, fraction: float | None) -> str:
    return f'fraction {fraction} of each rank' if rank is None else f'rank <= {rank}'


def _cut_table(data: Mapping[str, Any] | None, rank: int | None, fraction: float | None) -> dict[str, Any] | None:
    """Return a rank table with the lower ranks; criterion, values and budget stay those of the whole ranks."""
    if data is None:
        return None
    table = RankTable.from_dict(data, 'cfg.rank_table')
    rows = []
    for row in table.rows:
        low = _lower(row.rank, rank, fraction)
        # The parameters of a factor are proportional to its rank.
        params = row.params // row.rank * low if row.params and row.rank else row.params
        rows.append(replace(row, rank=low, params=params))
    if tuple(rows) == table.rows:
        return table.to_dict()
    source = f'{table.source}, cut to {_limit(rank, fraction)}'.removeprefix(', ')
    return replace(table, rows=tuple(rows), source=source).to_dict()


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
) -> Tensor:
    """Cut one factor of a state dict to what a layer of the lower rank holds, in place; return the whole factor."""
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
    return whole
