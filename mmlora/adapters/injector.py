"""The injector: turn chosen linear layers of a model into adapted ones, in place."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn

from ..fused import adapted_slices, layout_of
from .kinds import look_up_linear_kind
from .low_rank import LowRankLinear
from .sites import bypassed, is_among, place_of
from .targets import linear_names, matches, select

Rank = int | Mapping[str, int]

INTERLEAVED = {
    ('mmpretrain.models.utils.attention.LeAttention', 'qkv'),
    ('mmpretrain.models.backbones.efficientformer.AttentionWithBias', 'qkv'),
    ('timm.models.efficientformer.Attention', 'qkv'),
    ('timm.models.tiny_vit.Attention', 'qkv'),
}
"""(class, child): fused projections with q, k and v of each head beside each other, not as three row blocks."""


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
        kind: A kind of adapted linear, as :func:`mmlora.adapters.look_up_kind` takes it.
        slices: Which of q, k and v are adapted in a fused projection (a layer named ``qkv`` or ``kv``). None adapts
            the projection as one weight.
        **kwargs: ``alpha``, ``scaling``, ``dropout``, ``lora_dtype`` and what else the kind takes.

    Returns:
        The adapted layers by name, in the order of the model.

    Raises:
        ValueError: A pattern means no layer, an argument does not fit a layer (named), or a layer's parent never
            calls its ``forward``.
        TypeError: A layer is of a subclass of ``nn.Linear`` that computes something else.
    """
    chosen = select(targets, linear_names(model))
    ranks = dict(ranks or {})
    for pattern in ranks:
        select([pattern], chosen, 'chosen layer')
    exact = {}
    for name in chosen:
        exact[name] = rank
        for pattern, value in ranks.items():
            if matches(pattern, name):
                exact[name] = value
    return inject_exact(model, exact, kind, slices, **kwargs)


def inject_exact(
    model: nn.Module,
    ranks: Mapping[str, Rank],
    kind: str = 'lora',
    slices: Sequence[str] | None = 'qv',
    **kwargs: Any,
) -> dict[str, LowRankLinear]:
    """Adapt the layers of exactly these names; see :func:`inject`. Nothing is changed if any of them cannot be.

    A layer that the model holds under several names is adapted under all of them.

    Args:
        model: Changed in place.
        ranks: Rank of each layer; 0 leaves it as it is.
        kind: As for :func:`inject`.
        slices: As for :func:`inject`.
        **kwargs: As for :func:`inject`.
    """
    look_up_linear_kind(kind)
    plain = {name: model.get_submodule(name) for name, rank in ranks.items() if rank != 0}
    adapted = {name: _build(model, name, kind, ranks[name], slices, kwargs) for name in plain}
    twins: dict[int, LowRankLinear] = {id(layer): adapted[name] for name, layer in plain.items()}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if id(layer) in twins and not isinstance(layer, LowRankLinear):
            parent, child = _parent(model, name)
            setattr(parent, child, twins[id(layer)])
    return adapted


def _build(
    model: nn.Module, name: str, kind: str, rank: Rank, slices: Sequence[str] | None, kwargs: dict
) -> LowRankLinear:
    parent, child = _parent(model, name)
    if bypassed(model, name):
        raise ValueError(
            f'{name} belongs to a {type(parent).__name__}, which reads its weight and never calls it: an adapter '
            'there would learn nothing'
        )
    cls, own = look_up_linear_kind(kind), adapted_slices(name, slices)
    if layout_of(name) and slices is not None and cls.fused is not None:
        if is_among(model, name, INTERLEAVED):
            raise ValueError(
                f'{name} belongs to a {type(parent).__name__}, which lays out q, k and v head by head, so that slices '
                f'{slices!r} would mean other rows: adapt the projection as one weight, slices=None'
            )
        if not own:
            raise ValueError(f'{name} holds {layout_of(name)}, none of which is among the slices {slices!r}')
        cls = cls.fused
        kwargs = dict(kwargs, slices=own, layout=layout_of(name))
    try:
        return cls.from_linear(getattr(parent, child), rank=rank, **kwargs)
    except (ValueError, TypeError) as error:
        raise type(error)(f'{name}: {error}') from error


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    if not name:
        raise ValueError('the model itself is a linear layer; adapt it with LoRALinear.from_linear')
    return place_of(model, name)


def adapted_layers(model: nn.Module) -> dict[str, LowRankLinear]:
    """Return all adapted layers of a model by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LowRankLinear)}
