"""The change of a whole model at a lower rank."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.nn as nn

from .injector import adapted_layers
from .sub_rank import SubRankLinear
from .targets import select


def sub_rank_layers(model: nn.Module, targets: str | Sequence[str] | None = None) -> dict[str, SubRankLinear]:
    """Return the adapted layers of a model by name; all of them can use a sub-rank.

    Args:
        model: Any model.
        targets: Patterns as in :func:`mmlora.adapters.targets.matches` that choose among the layers; None means all.

    Raises:
        ValueError: The model has no adapted layer, or a pattern means none of them.
        TypeError: A chosen layer is of a kind that has no sub-ranks.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no adapted layer, so there is no rank to lower: use a backbone such as '
            'VitSR_LoRA, SwinSR_LoRA or AdaptedBackbone'
        )
    chosen = list(layers) if targets is None else select(targets, list(layers), 'adapted layer')
    other = [name for name in chosen if not isinstance(layers[name], SubRankLinear)]
    if other:
        raise TypeError(f'{other[0]} is a {type(layers[other[0]]).__name__}, a kind of adapter that has no sub-ranks')
    return {name: layers[name] for name in chosen}


def rank_at(full: int, rank: int | None = None, fraction: float | None = None) -> int:
    """Return the number of components out of ``full``: ``min(rank, full)``, or the fraction of it, rounded up."""
    if rank is not None:
        return min(rank, full)
    # A product such as 0.1 * 30 lies above 3 by rounding alone.
    return min(full, max(1, math.ceil(fraction * full - 1e-9)))


@contextmanager
def at_rank(
    model: nn.Module, rank: int | None = None, *, fraction: float | None = None, rescale: bool = True
) -> Iterator[int]:
    """Use the first components of every adapted layer only, in training and in evaluation, inside a ``with`` block.

    Args:
        model: A model with adapted layers, none of them merged; it is as before after the block.
        rank: Number of components, at least 1; layers of a lower rank use all theirs.
        fraction: Instead of a rank the fraction of each layer's rank, in (0, 1], rounded up.
        rescale: Whether scalings follow their rule at the lower rank, as in training with SPU; else they stay those of
            the full rank, so that the rest of the change is left out and nothing else happens.

    Yields:
        The number of learned parameters of the adapters in use.

    Raises:
        ValueError: Not just one of rank and fraction is given, it is out of range, a layer is merged, or the model has
            no adapted layer.
        TypeError: The rank is not an integer, or a layer is of a kind that has no sub-ranks.
    """
    check_point(rank, fraction)
    layers = sub_rank_layers(model)
    wanted = {
        name: {part: rank_at(r, rank, fraction) for part, r in layer.ranks.items()} for name, layer in layers.items()
    }
    before = {name: layer.sub_rank for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.use_sub_rank(wanted[name], always=True, rescale=rescale)
        yield sum(layer.parameters_at(wanted[name]) for name, layer in layers.items())
    finally:
        for name, layer in layers.items():
            layer.sub_rank = before[name]


def check_point(rank: int | None, fraction: float | None) -> None:
    """Check the arguments of :func:`at_rank` that do not depend on the model.

    Raises:
        ValueError: Not just one of them is given, or it is out of range.
        TypeError: The rank is not an integer.
    """
    if (rank is None) == (fraction is None):
        raise ValueError(f'give either a rank or a fraction of the rank, got rank={rank!r} and fraction={fraction!r}')
    if rank is not None:
        if isinstance(rank, bool) or not isinstance(rank, int):
            raise TypeError(f'the rank must be an integer, got {rank!r}; fraction= takes a part of each rank')
        if rank < 1:
            raise ValueError(f'the rank must be at least 1, got {rank}')
    elif not 0 < fraction <= 1:
        raise ValueError(f'the fraction of the rank must lie in (0, 1], got {fraction!r}')
