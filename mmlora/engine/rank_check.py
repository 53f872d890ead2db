"""Whether a rank table belongs to a model and to the weights that it has loaded."""

from collections.abc import Mapping

from ..adapters import LowRankLinear
from ..io.spectrum_cache import SpectrumCache
from ..ranks import RankTable, is_criterion, resolve_criterion, slice_rows, spectrum
from ..ranks.nested import Rank

TOLERANCE = 1e-3
"""Largest relative difference between a value of the table and that of the loaded weight."""


def check_ranks(table: RankTable, layers: Mapping[str, LowRankLinear]) -> None:
    """Check that a table names the adapted layers of a model and their ranks.

    Raises:
        ValueError: It does not; the first differences are named.
    """
    other = {row.module for row in table.rows if row.rank} ^ set(layers)
    if other:
        raise ValueError(f'the rank table and the model adapt different modules: {sorted(other)[:5]}')
    for module, rank in table.ranks.items():
        if module in layers and not _takes(rank, layers[module].ranks):
            raise ValueError(f'{module} has ranks {layers[module].ranks}, the table says {rank}')


def other_weights(table: RankTable, layers: Mapping[str, LowRankLinear]) -> str | None:
    """Return how a table betrays that it was computed from other weights than those of the layers, or None.

    Only what the frozen weights alone decide can be computed again; values that came from data are taken as they are.
    """
    cache = SpectrumCache()  # It was filled when the ranks were settled.
    for row in table.rows:
        layer = layers.get(row.module)
        if layer is None or row.value is None or layer.weight.requires_grad or not is_criterion(row.criterion):
            continue
        criterion = resolve_criterion(row.criterion)
        if criterion.reads not in ('norms', 'values'):
            continue
        rows = slice_rows(row.module, row.slice, layer.weight.shape[0])
        value = criterion.value(spectrum(layer.weight[rows], row.label, cache, criterion.reads))
        if abs(value - row.value) > TOLERANCE * row.value:
            return (
                f'the rank table ({table.source}) was computed from other weights than those loaded: '
                f'{row.criterion} of {row.label} is {value:.4f} here, the table says {row.value:.4f}'
            )
    return None


def _takes(rank: Rank, own: Mapping[str, int]) -> bool:
    """Return whether a layer has the ranks that a table says; slices of rank 0 are not adapted."""
    if isinstance(rank, Mapping):
        return {name: r for name, r in rank.items() if r} == dict(own)
    return set(own.values()) == {rank}
