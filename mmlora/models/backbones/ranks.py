"""What ``lora_ranks`` of a backbone means: from numbers, names and files to a rank for each adapted module."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn as nn
from torch import Tensor

from ...io.checkpoint import load_checkpoint
from ...io.site_weights import count_parameters, select_weights
from ...io.spectrum_cache import SpectrumCache
from ...io.weights import unwrap
from ...ranks import (
    CRITERIA,
    PRESETS,
    Criterion,
    RankRow,
    RankTable,
    build_rank_table,
    check_budget,
    check_rank_per,
    flatten_sites,
    is_criterion,
    ranks_by_module,
    resolve_criterion,
)
from ...ranks.nested import Rank, Sites

DEFAULT = 'stable_rank'


def is_symbolic(lora_ranks: Any) -> bool:
    """Return whether ranks are yet to be looked up or computed: a name, a file, or None for the default."""
    return lora_ranks is None or isinstance(lora_ranks, (str, Path))


def reads_data(lora_ranks: Any) -> bool:
    """Return whether ranks are those of a criterion that looks at batches of training data.

    Raises:
        ValueError: They name a criterion with a wrong parameter.
    """
    return is_symbolic(lora_ranks) and is_criterion(_text(lora_ranks)) and _criterion(lora_ranks).reads == 'data'


def pretrained_checkpoint(init_cfg: Any) -> str | None:
    """Return the checkpoint that an ``init_cfg`` of type Pretrained names, or None."""
    if isinstance(init_cfg, Mapping) and init_cfg.get('type') == 'Pretrained':
        return init_cfg.get('checkpoint')
    return None


def resolve_ranks(
    lora_ranks: Any,
    sites: Sites,
    source: str | None = None,
    budget: Mapping[str, float] | None = None,
    slices: Sequence[str] | None = 'qv',
    rank_per: str = 'layer',
    bare: Callable[[], nn.Module] | None = None,
) -> RankTable:
    """Return the rank table that ``lora_ranks`` means for the modules of a backbone.

    Args:
        lora_ranks: A number, nested lists of the shape of ``sites``, a mapping from module to rank (on a fused
            projection a rank may be a mapping from slice to number), a criterion (``'stable_rank'``, ``'energy@0.9'``),
            a preset name, the path of a ``ranks.json``, or that of a checkpoint, whose own table is taken where it has
            one and whose stable ranks are computed else.
        sites: Names of the adapted modules, nested as the backbone nests them.
        source: Checkpoint of the frozen weights, for a criterion that reads weights.
        budget: As in :func:`mmlora.ranks.check_budget`.
        slices: Which of q, k and v are adapted on a fused projection; None adapts it as one weight.
        rank_per: ``'layer'`` or ``'slice'``, as in :func:`mmlora.ranks.build_rank_table`.
        bare: Returns the backbone without adapters, with or without memory: its shapes serve criteria that read
            nothing else, its size serves ``share``.

    Raises:
        ValueError: The ranks do not fit the modules, or the name is unknown, or a criterion has no source or reads
            data, or a budget or granularity comes with ranks that are given.
        FileNotFoundError: A file does not exist.
    """
    check_budget(budget)
    check_rank_per(rank_per, slices)
    modules = list(flatten_sites(sites))
    if not is_symbolic(lora_ranks):
        _refuse_choice(lora_ranks, budget, rank_per)
        return _manual(ranks_by_module(lora_ranks, sites), 'manual')
    text = _text(lora_ranks)
    if is_criterion(text):
        weights, where = _weights(text, modules, source, bare)
        return _compute(weights, where, text, budget, slices, rank_per, _size(budget, bare))
    if text in PRESETS:
        _refuse_choice(lora_ranks, budget, rank_per)
        return _manual(ranks_by_module(PRESETS[text], sites), f'preset {text}')
    if text.endswith('.json'):
        return _given(RankTable.load(text), sites, lora_ranks, budget, rank_per)
    if not Path(text).is_file() and '://' not in text:
        names = sorted({*CRITERIA, *PRESETS})
        close = difflib.get_close_matches(text.partition('@')[0], names) or names
        raise ValueError(
            f'lora_ranks={text!r} is no criterion, no preset and no file. Did you mean one of {close}, a ranks.json or '
            'the path of a checkpoint?'
        )
    checkpoint = load_checkpoint(text)
    table = table_in_checkpoint(checkpoint, text)
    if table is not None:
        return _given(table, sites, lora_ranks, budget, rank_per)
    state = unwrap(checkpoint, text)
    size = count_parameters(state) if bare is None else _size(budget, bare)
    return _compute(select_weights(state, modules, text), text, DEFAULT, budget, slices, rank_per, size)


def table_in_checkpoint(checkpoint: Mapping[str, Any], where: str) -> RankTable | None:
    """Return the rank table that a training checkpoint carries in its meta, or None.

    Raises:
        ValueError: There is one, but it is damaged.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    own = meta.get('mmlora') if isinstance(meta, Mapping) else None
    if not isinstance(own, Mapping) or not own.get('rank_table'):
        return None
    return RankTable.from_dict(own['rank_table'], f'the rank table of {where}')


def model_size(model: nn.Module) -> int:
    """Return the number of parameters of a model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _text(lora_ranks: Any) -> str:
    return str(lora_ranks or DEFAULT)


def _criterion(lora_ranks: Any) -> Criterion:
    try:
        return resolve_criterion(_text(lora_ranks))
    except ValueError as error:
        raise ValueError(f'lora_ranks={lora_ranks!r}: {error}') from error


def _weights(
    text: str, modules: list[str], source: str | None, bare: Callable[[], nn.Module] | None
) -> tuple[dict[str, Tensor], str]:
    """Return what a criterion reads, and where it is from."""
    reads = _criterion(text).reads
    if reads == 'data':
        raise ValueError(
            f'lora_ranks={text!r} reads batches of training data, which a backbone does not have: call '
            'mmlora.apis.settle_ranks(cfg) on the whole config before the model is built (tools/train.py does)'
        )
    if reads == 'shape' and bare is not None:
        layers = dict(bare().named_modules())
        return {name: layers[name].weight for name in modules}, 'shapes'
    if not source:
        raise ValueError(
            f'lora_ranks={text!r} needs the frozen weights: give the backbone '
            "init_cfg=dict(type='Pretrained', checkpoint=...), or call mmlora.apis.settle_ranks(cfg) with "
            'load_from set before the model is built (tools/train.py and tools/test.py do)'
        )
    return select_weights(unwrap(load_checkpoint(source), str(source)), modules, str(source)), str(source)


def _size(budget: Mapping[str, float] | None, bare: Callable[[], nn.Module] | None) -> int | None:
    return model_size(bare()) if bare is not None and 'share' in (budget or {}) else None


def _compute(
    weights: Mapping[str, Tensor],
    source: str,
    criterion: str,
    budget: Mapping[str, float] | None,
    slices: Sequence[str] | None,
    rank_per: str,
    size: int | None,
) -> RankTable:
    cache = SpectrumCache()
    table = build_rank_table(weights, criterion, budget, slices, source, cache, rank_per, size)
    cache.save()
    return table


def _given(
    table: RankTable, sites: Sites, lora_ranks: Any, budget: Mapping[str, float] | None, rank_per: str
) -> RankTable:
    _refuse_choice(lora_ranks, budget, rank_per)
    ranks_by_module(table.ranks, sites)
    return table


def _refuse_choice(lora_ranks: Any, budget: Mapping[str, float] | None, rank_per: str) -> None:
    if budget is not None:
        raise ValueError(f'rank_budget={budget!r} needs ranks from a criterion, but lora_ranks={lora_ranks!r} is given')
    if rank_per != 'layer':
        raise ValueError(f'rank_per={rank_per!r} needs ranks from a criterion, but lora_ranks={lora_ranks!r} is given')


def _manual(ranks: Mapping[str, Rank], source: str) -> RankTable:
    rows = []
    for module, rank in ranks.items():
        if isinstance(rank, Mapping):
            rows += [RankRow(module, own, slice=name) for name, own in rank.items()]
        else:
            rows.append(RankRow(module, rank))
    return RankTable(tuple(rows), source)
