"""What ``lora_ranks`` of a backbone means: from numbers, names and files to a rank for each adapted module."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...io.checkpoint import load_checkpoint
from ...io.site_weights import select_weights
from ...io.spectrum_cache import SpectrumCache
from ...io.weights import unwrap
from ...ranks import CRITERIA, PRESETS, RankRow, RankTable, build_rank_table, flatten_sites, ranks_by_module
from ...ranks.nested import Sites


def is_symbolic(lora_ranks: Any) -> bool:
    """Return whether ranks are yet to be looked up or computed: a name, a file, or None for the default."""
    return lora_ranks is None or isinstance(lora_ranks, (str, Path))


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
) -> RankTable:
    """Return the rank table that ``lora_ranks`` means for the modules of a backbone.

    Args:
        lora_ranks: A number, nested lists of the shape of ``sites``, a mapping from module to rank, a criterion
            (``'stable_rank'``), a preset name, the path of a ``ranks.json``, or that of a checkpoint, whose own
            table is taken where it has one and whose stable ranks are computed else.
        sites: Names of the adapted modules, nested as the backbone nests them.
        source: Checkpoint of the frozen weights, for a criterion.
        budget: As in :func:`mmlora.ranks.allocate`.
        slices: Which of q, k and v are adapted on a fused projection; None adapts it as one weight.

    Raises:
        ValueError: The ranks do not fit the modules, or the name is unknown, or a criterion has no source.
        FileNotFoundError: A file does not exist.
    """
    modules = list(flatten_sites(sites))
    if budget is not None and (not is_symbolic(lora_ranks) or str(lora_ranks or '') in PRESETS):
        raise ValueError(f'rank_budget={budget!r} needs ranks from a criterion, but lora_ranks={lora_ranks!r} is given')
    if not is_symbolic(lora_ranks):
        return _manual(ranks_by_module(lora_ranks, sites), 'manual')
    text = str(lora_ranks or 'stable_rank')
    if text in CRITERIA:
        if not source:
            raise ValueError(
                f'lora_ranks={text!r} needs the frozen weights: give the backbone '
                "init_cfg=dict(type='Pretrained', checkpoint=...), or call mmlora.apis.settle_ranks(cfg) with "
                'load_from set before the model is built (tools/train.py and tools/test.py do)'
            )
        return _compute(load_checkpoint(source), source, modules, text, budget, slices)
    if text in PRESETS:
        return _manual(ranks_by_module(PRESETS[text], sites), f'preset {text}')
    if text.endswith('.json'):
        table = RankTable.load(text)
        ranks_by_module(table.ranks, sites)
        return table
    if not Path(text).is_file() and '://' not in text:
        names = sorted({*CRITERIA, *PRESETS})
        close = difflib.get_close_matches(text, names) or names
        raise ValueError(
            f'lora_ranks={text!r} is no criterion, no preset and no file. Did you mean one of {close}, a ranks.json or '
            'the path of a checkpoint?'
        )
    checkpoint = load_checkpoint(text)
    table = table_in_checkpoint(checkpoint, text)
    if table is not None:
        ranks_by_module(table.ranks, sites)
        return table
    return _compute(checkpoint, text, modules, 'stable_rank', budget, slices)


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


def _compute(
    checkpoint: Mapping[str, Any],
    source: str,
    modules: list[str],
    criterion: str,
    budget: Mapping[str, float] | None,
    slices: Sequence[str] | None,
) -> RankTable:
    weights = select_weights(unwrap(checkpoint, str(source)), modules, str(source))
    cache = SpectrumCache()
    table = build_rank_table(weights, criterion, budget, slices, str(source), cache)
    cache.save()
    return table


def _manual(ranks: Mapping[str, int], source: str) -> RankTable:
    return RankTable(tuple(RankRow(module, rank) for module, rank in ranks.items()), source)
