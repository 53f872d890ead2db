"""Pieces: the parts of a model that take a rank each, whole layers or the slices of fused projections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..fused import adapted_slices, layout_of

RANK_PER = ('layer', 'slice')
"""``'layer'``: one rank for a fused projection, which each adapted slice takes; ``'slice'``: one for each."""


@dataclass(frozen=True)
class Piece:
    """One part that takes a rank.

    Attributes:
        module: Name of the layer.
        part: Name of the slice, or '' for the whole layer.
        rows: Its rows of the layer's weight.
        cost: Learned parameters for each unit of rank.
        limit: Largest rank.
    """

    module: str
    part: str
    rows: slice
    cost: int
    limit: int

    @property
    def name(self) -> str:
        """Name of the piece for people and for draws that depend on it."""
        return f'{self.module}.{self.part}' if self.part else self.module


def check_rank_per(rank_per: str, slices: Sequence[str] | None) -> None:
    """Check a granularity.

    Raises:
        ValueError: It is unknown, or asks for slices where fused projections are adapted as one weight.
    """
    if rank_per not in RANK_PER:
        raise ValueError(f'rank_per must be one of {RANK_PER}, got {rank_per!r}')
    if rank_per == 'slice' and slices is None:
        raise ValueError("rank_per='slice' needs slices, lora_slices=None adapts a fused projection as one weight")


def pieces_of(
    shapes: Mapping[str, tuple[int, int]], slices: Sequence[str] | None, rank_per: str = 'layer'
) -> list[Piece]:
    """Return the pieces of layers.

    Args:
        shapes: Rows and columns of the weights by name; a layer named ``qkv`` or ``kv`` is a fused projection, whose
            adapted slices have factors of their own.
        slices: The adapted slices of a fused projection; None adapts it as one weight.
        rank_per: One of :data:`RANK_PER`.

    Raises:
        ValueError: ``rank_per`` is unknown or does not go with ``slices``, or a fused weight does not divide into its
            slices.
    """
    check_rank_per(rank_per, slices)
    return [piece for name, shape in shapes.items() for piece in _pieces(name, shape, slices, rank_per == 'slice')]


def _pieces(module: str, shape: tuple[int, int], slices: Sequence[str] | None, each: bool) -> list[Piece]:
    out_features, in_features = shape
    parts = adapted_slices(module, slices)
    if not parts:
        return [Piece(module, '', slice(0, out_features), in_features + out_features, min(in_features, out_features))]
    rows = slice_rows(module, parts[0], out_features)
    height = rows.stop - rows.start
    cost, limit = in_features + height, min(in_features, height)
    if not each:
        return [Piece(module, '', slice(0, out_features), len(parts) * cost, limit)]
    return [Piece(module, name, slice_rows(module, name, out_features), cost, limit) for name in parts]


def slice_rows(module: str, name: str, out_features: int) -> slice:
    """Return the rows of a slice of a fused projection, or all rows for ''.

    Raises:
        ValueError: The rows do not divide among the slices.
    """
    if not name:
        return slice(0, out_features)
    layout = layout_of(module)
    rows, rest = divmod(out_features, len(layout))
    if rest:
        raise ValueError(f'{module} has {out_features} rows, which do not divide among its slices {layout}')
    first = layout.index(name) * rows
    return slice(first, first + rows)
