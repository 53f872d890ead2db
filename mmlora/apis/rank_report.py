"""Choose ranks from a checkpoint file or a config."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ..io.attention import find_linear_weights
from ..io.site_weights import count_parameters
from ..io.spectrum_cache import SpectrumCache
from ..io.weights import load_state_dict
from ..models.backbones.adapt import check_slices, slices_of
from ..ranks import BUDGETS, RankTable, build_rank_table, check_budget, check_rank_per, resolve_criterion
from ..ranks.allocate import check_total
from .settle import adapted_backbones, has_ranks, settle_ranks
from .unknown_types import explain_unknown_types
from .variables import settle_variables


def parse_budget(text: str | None) -> dict[str, float] | None:
    """Return ``{'params': 500000, 'r_max': 64}`` from ``'params=500000,r_max=64'``; None stays None.

    Raises:
        ValueError: The text is not of the form name=number,name=number, or is no valid budget.
    """
    if text is None:
        return None
    budget: dict[str, float] = {}
    for part in text.split(','):
        name, equals, number = part.partition('=')
        name = name.strip()
        try:
            value = float(number)
        except ValueError:
            equals = ''
        if not equals or name in budget:
            raise ValueError(
                f'a budget is written NAME=NUMBER or NAME=NUMBER,NAME=NUMBER with names among {", ".join(BUDGETS)}, '
                f'each once, got {text!r}'
            )
        budget[name] = int(value) if value.is_integer() else value
    check_budget(budget)
    return budget


def ranks_from_checkpoint(
    path: str,
    criterion: str = 'stable_rank',
    budget: Mapping[str, float] | None = None,
    ffn: bool = False,
    slices: Sequence[str] | None = 'qv',
    rank_per: str = 'layer',
) -> RankTable:
    """Choose ranks for the attention weights of a checkpoint of any known layout.

    Args:
        path: ``.pth``, ``.safetensors`` or ``.npz``; mmpretrain, timm, HF, OpenAI CLIP, open_clip or Google.
        criterion: A name in :data:`mmlora.ranks.CRITERIA`, with its parameter after ``@``.
        budget: As in :func:`mmlora.ranks.check_budget`. ``share`` is of the tensors in the file.
        ffn: Whether to choose ranks for the feed-forward layers too.
        slices: Which of q, k and v are adapted on a fused projection. Parameter counts and limits depend on it, and
            with ``rank_per='slice'`` which slices get ranks.
        rank_per: ``'layer'`` or ``'slice'``, as in :func:`mmlora.ranks.build_rank_table`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The criterion, the budget or the granularity is not valid; or the file is no checkpoint, or holds no
            attention weights of a known layout.
    """
    check_slices(slices)
    check_rank_per(rank_per, slices)
    check_total(criterion, budget)
    state = load_state_dict(path, convert=False)
    weights, layouts = find_linear_weights(state, ffn)
    if not weights:
        raise ValueError(
            f'{path} holds {len(state)} tensors, but no attention weights of a known layout (mmpretrain, timm, HF, '
            f'OpenAI CLIP, Google .npz); its keys begin with {list(state)[:8]}'
        )
    if ffn and not any('.ffn.' in name for name in weights):
        raise ValueError(f'{path} holds attention weights ({sorted(layouts)}), but no feed-forward layers beside them')
    cache = SpectrumCache()
    source = f'{path} ({", ".join(sorted(layouts))})'
    table = build_rank_table(weights, criterion, budget, slices, source, cache, rank_per, count_parameters(state))
    cache.save()
    return table


def ranks_from_config(
    cfg: Config,
    criterion: str | None = None,
    budget: Mapping[str, float] | None = None,
    rank_per: str | None = None,
) -> tuple[RankTable, dict[str, Any]]:
    """Choose the ranks that a run of a config would have, from its weights, and its training data where they are read.

    Args:
        cfg: A whole config with one adapted backbone; it is not changed.
        criterion: Takes the place of the config's ranks, with ``budget`` and ``rank_per`` as they are given here.
        budget: As in :func:`mmlora.ranks.check_budget`.
        rank_per: ``'layer'`` or ``'slice'``.

    Returns:
        The table, and ``alpha``, ``scaling``, ``slices`` and ``kind`` of the backbone.

    Raises:
        ValueError: There is not one adapted backbone, its kind has no ranks, the ranks of the config are numbers
            already, a budget or granularity comes without a criterion, or the ranks cannot be settled.
    """
    cfg = copy.deepcopy(cfg)
    settle_variables(cfg)
    found = list(adapted_backbones(cfg.get('model', {})))
    if len(found) != 1:
        raise ValueError(f'the config has {len(found)} adapted backbones, but ranks are chosen for one')
    backbone, kind = found[0]
    if not has_ranks(backbone, kind):
        raise ValueError(f'kind={backbone["kind"]!r} adapts no layers with ranks, so there are none to choose')
    if criterion is not None:
        resolve_criterion(criterion)
        cfg.custom_hooks = []  # StableRankHook could ask for others
        for name, value in dict(lora_ranks=criterion, rank_budget=budget, rank_per=rank_per or 'layer').items():
            backbone[name] = value  # one by one: the update of a config would merge two budgets
    elif budget is not None or rank_per is not None:
        raise ValueError('a budget or granularity for a config needs a criterion beside it')
    with explain_unknown_types():
        table = settle_ranks(cfg)
    if table is None:
        raise ValueError(f'the config has numbers already, lora_ranks={backbone.get("lora_ranks")!r}: give a criterion')
    scaling = dict(alpha=backbone.get('lora_alpha', 1.0), scaling=backbone.get('lora_scaling', 'alpha/r'))
    own = backbone.get('kind', getattr(kind, 'default_kind', 'lora'))
    return table, dict(scaling, slices=slices_of(backbone, kind), kind=own)
