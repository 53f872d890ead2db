"""Settle ranks before a model is built.

mmengine builds the model, its parallel wrapper and the optimizer before any hook runs and before ``load_from`` is
read. So whatever stands for ranks in a config (``'stable_rank'``, a file, a preset) is replaced by numbers first, and
the config that is dumped beside a run holds numbers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..io.checkpoint import load_checkpoint
from ..models.backbones.adapt import count_slices
from ..models.backbones.ranks import is_symbolic, pretrained_checkpoint, resolve_ranks, table_in_checkpoint
from ..ranks import RankTable, nest_ranks, ranks_by_module
from ..registry import MODELS

HOOKS = ('StableRankHook', 'vit_srloraHook', 'swin_srloraHook')


def settle_ranks(cfg: Config, checkpoint: str | None = None) -> RankTable | None:
    """Replace the symbolic ranks of a config by numbers, in place.

    A checkpoint that carries a rank table wins over the config, since its factors fit no other ranks. Otherwise the
    weights are those of the backbone's ``init_cfg``, else ``load_from``. The table is left in ``cfg.rank_table``.

    Args:
        cfg: A whole config; the backbones are looked for anywhere in ``cfg.model``.
        checkpoint: The checkpoint that is to be tested or resumed.

    Returns:
        The rank table, or None where the config has no adapted backbone, or only numbers and no checkpoint.

    Raises:
        ValueError: A symbolic rank has no source, does not fit the backbone, or is unknown.
        FileNotFoundError: A file that the ranks come from does not exist.
    """
    backbones = list(_adapted_backbones(cfg.get('model', {})))
    if not backbones:
        return None
    carried = table_in_checkpoint(load_checkpoint(checkpoint), checkpoint) if checkpoint else None
    hook = _hook(cfg)
    table = None
    for backbone, sites_of in backbones:
        sites = sites_of(backbone)
        asked = backbone.get('lora_ranks')
        if carried is not None:
            own = carried
        elif is_symbolic(asked):
            asked = asked or (hook or {}).get('criterion', 'stable_rank')
            budget = backbone.get('rank_budget') or (hook or {}).get('budget')
            source = _own_checkpoint(backbone) or cfg.get('load_from') or checkpoint
            own = resolve_ranks(asked, sites, source, budget, count_slices(backbone.get('lora_slices', 'qv')))
        else:
            _drop_stale_table(cfg, ranks_by_module(asked, sites))
            continue
        numbers = nest_ranks(own.ranks, sites)
        flat = all(isinstance(number, int) for number in numbers)
        settled = own.ranks if flat else numbers
        if carried is not None and not is_symbolic(asked) and asked != settled:
            print_log(f'ranks of the config {asked} give way to those of {checkpoint}: {settled}', logger='current')
        backbone['lora_ranks'] = settled
        table = own
    if table is not None:
        cfg['rank_table'] = table.to_dict()
    return table


def _drop_stale_table(cfg: Config, ranks: Mapping[str, int]) -> None:
    """Forget a table that a dumped config carries where its ranks have been changed by hand since."""
    if cfg.get('rank_table') and RankTable.from_dict(cfg['rank_table'], 'cfg.rank_table').ranks != ranks:
        print_log('cfg.rank_table is dropped: lora_ranks of the config say something else', logger='current')
        cfg.pop('rank_table')


def _adapted_backbones(node: Any) -> Iterator[tuple[dict, Any]]:
    """Yield the configs of adapted backbones and the function that gives their modules."""
    if isinstance(node, Mapping):
        kind = node.get('type')
        known = MODELS.get(kind.rpartition('.')[2]) if isinstance(kind, str) and _is_ours(kind) else kind
        sites_of = getattr(known, 'adapter_sites', None)
        if sites_of is not None:
            yield node, sites_of
            return
        for value in node.values():
            yield from _adapted_backbones(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _adapted_backbones(value)


def _own_checkpoint(backbone: Mapping[str, Any]) -> str | None:
    """Return the pre-trained weights that a backbone names, itself or in the backbone that it adapts."""
    inner = backbone.get('backbone') or {}
    return pretrained_checkpoint(backbone.get('init_cfg')) or pretrained_checkpoint(inner.get('init_cfg'))


def _is_ours(kind: str) -> bool:
    scope, _, name = kind.rpartition('.')
    return scope in ('', 'mmlora', 'mmpretrain') and name in MODELS.module_dict


def _hook(cfg: Config) -> Mapping | None:
    for hook in cfg.get('custom_hooks') or ():
        kind = hook.get('type') if isinstance(hook, Mapping) else None
        if isinstance(kind, str) and kind.rpartition('.')[2] in HOOKS:
            return hook
    return None
