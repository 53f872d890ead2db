"""Choose ranks from a checkpoint file."""

from collections.abc import Mapping, Sequence

from ..io.attention import find_linear_weights
from ..io.spectrum_cache import SpectrumCache
from ..io.weights import load_state_dict
from ..models.backbones.adapt import check_slices
from ..ranks import RankTable, build_rank_table


def parse_budget(text: str | None) -> dict[str, float] | None:
    """Return ``{'mean_rank': 8}`` from ``'mean_rank=8'``; None stays None.

    Raises:
        ValueError: The text is not of the form name=number.
    """
    if text is None:
        return None
    name, equals, number = text.partition('=')
    try:
        value = float(number)
    except ValueError:
        equals = ''
    if not equals:
        raise ValueError(f'a budget is written mean_rank=NUMBER or params=NUMBER, got {text!r}')
    return {name.strip(): int(value) if value.is_integer() else value}


def ranks_from_checkpoint(
    path: str,
    criterion: str = 'stable_rank',
    budget: Mapping[str, float] | None = None,
    ffn: bool = False,
    slices: Sequence[str] | None = 'qv',
) -> RankTable:
    """Choose ranks for the attention weights of a checkpoint of any known layout.

    Args:
        path: ``.pth``, ``.safetensors`` or ``.npz``; mmpretrain, timm, HF, OpenAI CLIP, open_clip or Google.
        criterion: A name in :data:`mmlora.ranks.CRITERIA`.
        budget: As in :func:`mmlora.ranks.allocate`.
        ffn: Whether to choose ranks for the feed-forward layers too.
        slices: Which of q, k and v are adapted on a fused projection; only parameter counts and limits depend on it.

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
    table = build_rank_table(weights, criterion, budget, slices, f'{path} ({", ".join(sorted(layouts))})', cache)
    cache.save()
    return table
