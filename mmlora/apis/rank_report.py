"""Choose ranks from a checkpoint file."""

from collections.abc import Mapping, Sequence

from ..io.attention import find_linear_weights
from ..io.site_weights import count_parameters
from ..io.spectrum_cache import SpectrumCache
from ..io.weights import load_state_dict
from ..models.backbones.adapt import check_slices
from ..ranks import BUDGETS, RankTable, build_rank_table, check_budget


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
        ValueError: It is no checkpoint, or holds no attention weights of a known layout.
    """
    check_slices(slices)
    state = load_state_dict(path)
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
