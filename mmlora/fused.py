"""Fused projections: linear layers in whose weight several projections lie as row blocks of one size."""

from collections.abc import Sequence

LAYOUTS: dict[str, tuple[str, ...]] = {'qkv': ('q', 'k', 'v'), 'kv': ('k', 'v')}
"""Last component of a layer's name -> its row blocks."""


def layout_of(module: str) -> tuple[str, ...]:
    """Return the row blocks of the layer of that name, or an empty tuple where it is not fused."""
    return LAYOUTS.get(module.rpartition('.')[2], ())


def adapted_slices(module: str, slices: Sequence[str] | None) -> tuple[str, ...]:
    """Return which row blocks of a layer are adapted by themselves.

    Args:
        module: Name of the layer.
        slices: The wanted ones among q, k and v; None adapts a fused projection as one weight.

    Returns:
        The blocks in the order of their rows; empty where the layer is adapted as one weight.

    Raises:
        ValueError: A wanted slice is none of q, k and v.
    """
    unknown = [name for name in slices or () if name not in LAYOUTS['qkv']]
    if unknown:
        raise ValueError(f'slices are among {LAYOUTS["qkv"]}, got {slices!r} with {unknown}')
    return tuple(name for name in layout_of(module) if slices is not None and name in slices)
