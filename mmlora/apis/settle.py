"""Settle ranks before a model is built.

mmengine builds the model, its parallel wrapper and the optimizer before any hook runs and before ``load_from`` is
read. So whatever stands for ranks in a config (``'stable_rank'``, a file, a preset) is replaced by numbers first, and
the config that is dumped beside a run holds numbers.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..engine import StableRankHook
from ..io.checkpoint import load_checkpoint
from ..io.weights import unwrap
from ..models.backbones.adapt import slices_of
from ..models.backbones.load_guard import LEARNED
from ..models.backbones.ranks import (
    is_symbolic,
    pretrained_checkpoint,
    reads_data,
    resolve_ranks,
    table_in_checkpoint,
)
from ..models.backbones.skeleton import build_skeleton
from ..ranks import RankTable, nest_ranks, ranks_by_module
from ..registry import HOOKS, MODELS
from .data_ranks import data_ranks


def settle_ranks(cfg: Config, checkpoint: str | None = None) -> RankTable | None:
    """Replace the symbolic ranks of a config by numbers, in place.

    A checkpoint that carries a rank table wins over the config, since its factors fit no other ranks. Otherwise the
    weights are those that the run will have: of ``load_from``, which is read last, else of the backbone's
    ``init_cfg``. A ``load_from`` with factors, but no table, gives way to ``init_cfg``: old code saved frozen weights
    with the change merged into them. The table is left in ``cfg.rank_table``.

    A criterion that reads data sees ``cfg.rank_batches`` batches of the training data; see
    :func:`mmlora.apis.data_ranks.data_ranks`.

    Args:
        cfg: A whole config; the adapted backbone is looked for anywhere in ``cfg.model``.
        checkpoint: The checkpoint that is to be tested or resumed.

    Returns:
        The rank table, or None where the config has no backbone with ranks, or only numbers and no checkpoint.

    Raises:
        ValueError: A symbolic rank has no source, does not fit the backbone, or is unknown; or the backbone and
            StableRankHook ask for different ranks, or the hook for those of a kind that has none; or there are several
            adapted backbones and not all of them have numbers.
        FileNotFoundError: A file that the ranks come from does not exist.
    """
    found = list(adapted_backbones(cfg.get('model', {})))
    hook = _hook(cfg)
    without = [backbone for backbone, kind in found if not has_ranks(backbone, kind)]
    if without and hook is not None:
        raise ValueError(f'StableRankHook needs ranks, and kind={without[0]["kind"]!r} has none: leave the hook out')
    found = [(backbone, kind) for backbone, kind in found if has_ranks(backbone, kind)]
    asked = [_asked(backbone, kind, hook) for backbone, kind in found]
    if len(found) > 1:
        if any(is_symbolic(ranks) for ranks in asked):
            raise ValueError(
                f'the model has {len(found)} adapted backbones with lora_ranks={asked}: give each of them numbers, '
                'since a checkpoint holds one rank table'
            )
        return None
    if not found:
        return None
    (backbone, kind), (ranks,) = found[0], asked
    sites = kind.adapter_sites(backbone)
    loaded = load_checkpoint(checkpoint) if checkpoint else {}
    table = table_in_checkpoint(loaded, checkpoint)
    if table is not None:
        _announce(ranks, table, sites, checkpoint)
    elif is_symbolic(ranks):
        table = _settle(cfg, backbone, kind, ranks, _budget(backbone, hook), checkpoint, loaded)
    else:
        _drop_stale_table(cfg, ranks_by_module(ranks, sites))
        return None
    nested = nest_ranks(table.ranks, sites)
    backbone['lora_ranks'] = nested if sites and not isinstance(sites[0], str) else table.ranks
    for name in ('rank_budget', 'rank_per'):
        backbone.pop(name, None)
    cfg['rank_table'] = table.to_dict()
    return table


def _settle(
    cfg: Config,
    backbone: Mapping[str, Any],
    kind: Any,
    ranks: Any,
    budget: Mapping[str, float] | None,
    checkpoint: str | None,
    loaded: Mapping[str, Any],
) -> RankTable:
    own, other = _own_checkpoint(backbone), cfg.get('load_from') or checkpoint
    if own and other and _has_factors(loaded if other == checkpoint else load_checkpoint(other), other):
        other = None
    if reads_data(ranks):
        if not own and not other:
            raise ValueError(
                f'lora_ranks={ranks!r} needs the frozen weights: give the backbone '
                "init_cfg=dict(type='Pretrained', checkpoint=...) or the config load_from"
            )
        return data_ranks(cfg, backbone, kind, str(ranks), budget, other)
    return resolve_ranks(
        ranks,
        kind.adapter_sites(backbone),
        other or own,
        budget,
        slices_of(backbone, kind),
        backbone.get('rank_per', 'layer'),
        lambda: build_skeleton(kind.bare_config(backbone)),
    )


def _has_factors(checkpoint: Mapping[str, Any], where: str) -> bool:
    return any(LEARNED.search(key) for key in unwrap(checkpoint, where))


def has_ranks(backbone: Mapping[str, Any], kind: Any) -> bool:
    """Return whether the config of an adapted backbone, built by ``kind``, adapts layers that have ranks."""
    return not hasattr(kind, 'has_ranks') or kind.has_ranks(backbone)


def _asked(backbone: Mapping[str, Any], kind: Any, hook: Mapping[str, Any] | None) -> Any:
    """Return the ranks that a config asks for: its own, those of the hook, or the default of the backbone."""
    own, other = backbone.get('lora_ranks'), (hook or {}).get('criterion')
    if own is not None:
        if is_symbolic(own) and other is not None:  # numbers are those of a dumped config, settled already
            _refuse_two('lora_ranks', own, 'criterion', other)
        return own
    if hook is not None:
        return other or 'stable_rank'
    default = inspect.signature(kind).parameters['lora_ranks'].default
    return kind.default_ranks(backbone) if default is None else default


def _budget(backbone: Mapping[str, Any], hook: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    own, other = backbone.get('rank_budget'), (hook or {}).get('budget')
    if own is not None and other is not None:
        _refuse_two('rank_budget', own, 'budget', other)
    return other if own is None else own


def _refuse_two(name: str, own: Any, of_hook: str, other: Any) -> None:
    if str(own) != str(other):
        raise ValueError(
            f'the backbone has {name}={own!r}, StableRankHook has {of_hook}={other!r}: give one of the two, or the same'
        )


def _announce(asked: Any, table: RankTable, sites: list, checkpoint: str) -> None:
    if not is_symbolic(asked) and ranks_by_module(asked, sites) != table.ranks:
        print_log(f'ranks of the config {asked} give way to those of {checkpoint}: {table.ranks}', logger='current')


def _drop_stale_table(cfg: Config, ranks: Mapping[str, int]) -> None:
    """Forget a table that a dumped config carries where its ranks have been changed by hand since."""
    if cfg.get('rank_table') and RankTable.from_dict(cfg['rank_table'], 'cfg.rank_table').ranks != ranks:
        print_log('cfg.rank_table is dropped: lora_ranks of the config say something else', logger='current')
        cfg.pop('rank_table')


def adapted_backbones(node: Any, verb: str = 'adapter_sites') -> Iterator[tuple[dict, Any]]:
    """Yield the configs of what brings the verb, adapted backbones by default, and the classes or functions of it."""
    if isinstance(node, Mapping):
        kind = resolve_type(node.get('type'), MODELS)
        if hasattr(kind, verb):
            yield node, kind
            return
        for value in node.values():
            yield from adapted_backbones(value, verb)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from adapted_backbones(value, verb)


def resolve_type(kind: Any, registry: Any) -> Any:
    """Return what a type means if it is ours: a name, a dotted path as lazy configs dump it, or the object itself."""
    if not isinstance(kind, str):
        return kind
    scope, _, name = kind.rpartition('.')
    ours = scope in ('', 'mmlora', 'mmpretrain') or scope.startswith('mmlora.')
    return registry.module_dict.get(name) if ours else None


def _own_checkpoint(backbone: Mapping[str, Any]) -> str | None:
    """Return the pre-trained weights that a backbone names, itself or in the backbone that it adapts."""
    inner = backbone.get('backbone') or {}
    return pretrained_checkpoint(backbone.get('init_cfg')) or pretrained_checkpoint(inner.get('init_cfg'))


def _hook(cfg: Config) -> Mapping[str, Any] | None:
    hooks = (hook for hook in cfg.get('custom_hooks') or () if isinstance(hook, Mapping))
    return next((hook for hook in hooks if resolve_type(hook.get('type'), HOOKS) is StableRankHook), None)
