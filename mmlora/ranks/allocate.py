"""From the weights of a frozen model to its rank table."""

import hashlib
from collections.abc import Mapping, MutableMapping, Sequence

from torch import Tensor

from ..fused import adapted_slices, layout_of
from .budget import Site, allocate
from .criteria import resolve_criterion
from .spectrum import spectrum, tensor_sha256
from .table import RankRow, RankTable


def site_of(module: str, shape: tuple[int, int], value: float, slices: Sequence[str] | None) -> Site:
    """Return the place that a module takes in the allocation.

    Args:
        module: Its name; one named ``qkv`` or ``kv`` is a fused projection, whose adapted slices have factors of
            their own.
        shape: Rows and columns of its weight.
        value: Value of the criterion.
        slices: The adapted slices of a fused projection; None adapts it as one weight.
    """
    out_features, in_features = shape
    parts = adapted_slices(module, slices)
    if not parts:
        return Site(value, in_features + out_features, min(in_features, out_features))
    rows = out_features // len(layout_of(module))
    return Site(value, len(parts) * (in_features + rows), min(in_features, rows))


def build_rank_table(
    weights: Mapping[str, Tensor],
    criterion: str = 'stable_rank',
    budget: Mapping[str, float] | None = None,
    slices: Sequence[str] | None = 'qv',
    source: str = '',
    cache: MutableMapping[str, list] | None = None,
) -> RankTable:
    """Choose a rank for each weight.

    Args:
        weights: ``{module: (out, in)}`` in the order of the model; a fused qkv is one weight, as in the published
            tables.
        criterion: A name in :data:`mmlora.ranks.criteria.CRITERIA`.
        budget: As in :func:`mmlora.ranks.budget.allocate`.
        slices: Which of q, k and v are adapted in a fused projection; None adapts it as one weight. Parameter counts
            and limits depend on it.
        source: Where the weights came from, for people.
        cache: Spectra by the hash of the weight.

    Raises:
        ValueError: There are no weights, one has no spectrum, or the criterion or budget is not valid.
    """
    if not weights:
        raise ValueError('no weights to choose ranks for')
    value_of = resolve_criterion(criterion)
    spectra = {name: spectrum(weight, name, cache) for name, weight in weights.items()}
    sites = [site_of(name, s.shape, value_of(s), slices) for name, s in spectra.items()]
    rows = tuple(
        RankRow(name, rank, criterion, site.value, s.sigma1, s.fro, rank * site.cost)
        for (name, s), site, rank in zip(spectra.items(), sites, allocate(sites, budget), strict=True)
    )
    return RankTable(rows, source, weights_sha256(weights), dict(budget) if budget else None)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return one hash for named weights, independent of their order and of the file that held them."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f'{name} {tensor_sha256(weights[name])}\n'.encode())
    return digest.hexdigest()
