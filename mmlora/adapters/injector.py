"""The injector: turn chosen linear layers of a model into adapted ones, in place."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn

from .kinds import KINDS
from .low_rank import LowRankLinear
from .targets import linear_names, matches, select

Rank = int | Mapping[str, int]

FUSED_LAYOUTS = {'qkv': ('q', 'k', 'v'), 'kv': ('k', 'v')}
"""Last component of a layer's name -> its row blocks."""

BYPASSED = {
    ('torch.nn.modules.activation.MultiheadAttention', 'out_proj'),
    ('mmpretrain.models.utils.attention.BEiTAttention', 'qkv'),
    ('mmpretrain.models.utils.attention.WindowMSAV2', 'qkv'),
    *(('mmpretrain.models.utils.attention.CrossMultiheadAttention', child) for child in 'qkv'),
}
"""(class, child): layers whose ``weight`` the parent reads itself, so that a changed ``forward`` is never called."""


def inject(
    model: nn.Module,
    targets: str | Sequence[str],
    rank: Rank = 8,
    ranks: Mapping[str, Rank] | None = None,
    kind: str = 'lora',
    slices: Sequence[str] | None = 'qv',
    **kwargs: Any,
) -> dict[str, LowRankLinear]:
    """Adapt the linear layers that the patterns name.

    Args:
        model: Changed in place.
        targets: Patterns as in :func:`mmlora.adapters.targets.matches`: names, suffixes or regular expressions.
        rank: Rank of every layer that ``ranks`` does not name. A mapping gives a rank for each slice.
        ranks: ``{pattern: rank}``; the last pattern that means a layer wins. Rank 0 leaves a layer as it is.
        kind: A name in :data:`mmlora.adapters.kinds.KINDS`.
        slices: Which of q, k and v are adapted in a fused projection (a layer named ``qkv`` or ``kv``). None adapts
            the projection as one weight.
        **kwargs: ``alpha``, ``scaling``, ``dropout``, ``lora_dtype`` and what else the kind takes.

    Returns:
        The adapted layers by name, in the order of the model.

    Raises:
        ValueError: A pattern means no layer, an argument does not fit a layer (named), or a layer's parent never
            calls its ``forward``.
    """
    if kind not in KINDS:
        raise ValueError(f'unknown kind of adapter {kind!r}: choose one of {sorted(KINDS)}')
    chosen = select(targets, linear_names(model))
    ranks = dict(ranks or {})
    for pattern in ranks:
        select([pattern], chosen, 'chosen layer')
    adapted = {}
    for name in chosen:
        own = rank
        for pattern, value in ranks.items():
            if matches(pattern, name):
                own = value
        if own == 0:
            continue
        adapted[name] = _build(model, name, kind, own, slices, kwargs)
    for name, layer in adapted.items():
        parent, child = _parent(model, name)
        setattr(parent, child, layer)
    return adapted


def _build(
    model: nn.Module, name: str, kind: str, rank: Rank, slices: Sequence[str] | None, kwargs: dict
) -> LowRankLinear:
    parent, child = _parent(model, name)
    if any((f'{base.__module__}.{base.__qualname__}', child) in BYPASSED for base in type(parent).__mro__):
        raise ValueError(
            f'{name} belongs to a {type(parent).__name__}, which reads its weight and never calls it: an adapter '
            'there would learn nothing'
        )
    cls = KINDS[kind]
    layout = FUSED_LAYOUTS.get(child)
    if slices is not None and layout is not None and cls.fused is not None:
        cls = cls.fused
        kwargs = dict(kwargs, slices=slices, layout=layout)
    try:
        return cls.from_linear(getattr(parent, child), rank=rank, **kwargs)
    except (ValueError, TypeError) as error:
        raise type(error)(f'{name}: {error}') from error


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, child = name.rpartition('.')
    if not child:
        raise ValueError('the model itself is a linear layer; adapt it with LoRALinear.from_linear')
    return model.get_submodule(path), child


def adapted_layers(model: nn.Module) -> dict[str, LowRankLinear]:
    """Return all adapted layers of a model by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LowRankLinear)}
