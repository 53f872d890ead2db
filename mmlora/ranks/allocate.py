"""From the weights of a frozen model to its rank table."""

import hashlib
from collections.abc import Mapping, MutableMapping

from torch import Tensor

from .budget import Site, allocate
from .criteria import resolve_criterion
from .spectrum import spectrum, tensor_sha256
from .table import RankRow, RankTable


def rank_cost(module: str, shape: tuple[int, int], slices: int) -> int:
    """Return the learned parameters for each unit of rank of a module.

    A module named ``qkv`` is a fused projection whose ``slices`` adapted thirds have factors of their own.
    """
    out_features, in_features = shape
    if module.rpartition('.')[2] == 'qkv':
        return slices * (in_features + out_features // 3)
    return in_features + out_features


def rank_limit(module: str, shape: tuple[int, int]) -> int:
    """Return the largest rank that a module can take."""
    out_features, in_features = shape
    return min(in_features, out_features // 3 if module.rpartition('.')[2] == 'qkv' else out_features)


def build_rank_table(
    weights: Mapping[str, Tensor],
    criterion: str = 'stable_rank',
    budget: Mapping[str, float] | None = None,
    slices: int = 2,
    source: str = '',
    cache: MutableMapping[str, list] | None = None,
) -> RankTable:
    """Choose a rank for each weight.

    Args:
        weights: ``{module: (out, in)}`` in the order of the model; a fused qkv is one weight, as in the published
            tables.
        criterion: A name in :data:`mmlora.ranks.criteria.CRITERIA`.
        budget: As in :func:`mmlora.ranks.budget.allocate`.
        slices: How many of q, k and v are adapted in a fused projection; only the parameter counts depend on it.
        source: Where the weights came from, for people.
        cache: Spectra by the hash of the weight.

    Raises:
        ValueError: There are no weights, one has no spectrum, or the criterion or budget is not valid.
    """
    if not weights:
        raise ValueError('no weights to choose ranks for')
    value_of = resolve_criterion(criterion)
    spectra = {name: spectrum(weight, name, cache) for name, weight in weights.items()}
    values = {name: value_of(s) for name, s in spectra.items()}
    sites = [
        Site(values[name], rank_cost(name, s.shape, slices), rank_limit(name, s.shape)) for name, s in spectra.items()
    ]
    rows = tuple(
        RankRow(name, rank, criterion, values[name], s.sigma1, s.fro, rank * site.cost)
        for (name, s), site, rank in zip(spectra.items(), sites, allocate(sites, budget), strict=True)
    )
    return RankTable(rows, source, weights_sha256(weights), dict(budget) if budget else None)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return one hash for named weights, independent of their order and of the file that held them."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f'{name} {tensor_sha256(weights[name])}\n'.encode())
    return digest.hexdigest()
