"""From the weights of a frozen model, or what was measured on data, to its rank table."""

import hashlib
from collections.abc import Mapping, MutableMapping, Sequence

from torch import Tensor

from .budget import TOTALS, Site, allocate, check_budget
from .criteria import resolve_criterion
from .pieces import Piece, pieces_of
from .spectrum import Spectrum, spectrum, tensor_sha256
from .table import RankRow, RankTable


def build_rank_table(
    weights: Mapping[str, Tensor],
    criterion: str = 'stable_rank',
    budget: Mapping[str, float] | None = None,
    slices: Sequence[str] | None = 'qv',
    source: str = '',
    cache: MutableMapping[str, list] | None = None,
    rank_per: str = 'layer',
    size: int | None = None,
) -> RankTable:
    """Choose a rank for each weight.

    Args:
        weights: ``{module: (out, in)}`` in the order of the model; a fused qkv is one weight, as in the published
            tables. For a criterion that reads shapes alone, tensors without memory will do.
        criterion: A name in :data:`mmlora.ranks.criteria.CRITERIA`, with its parameter after ``@``.
        budget: As in :func:`mmlora.ranks.budget.check_budget`.
        slices: Which of q, k and v are adapted in a fused projection; None adapts it as one weight. Parameter counts
            and limits depend on it.
        source: Where the weights came from, for people.
        cache: Spectra by the hash of the weight.
        rank_per: ``'layer'``: one rank for a fused projection, from the merged weight, for each of its adapted slices;
            ``'slice'``: each adapted slice by its own rows.
        size: Parameters of the backbone, for a budget by ``share``.

    Raises:
        ValueError: There are no weights, one has no spectrum, or the criterion or budget is not valid, or the criterion
            reads data or needs a budget.
    """
    if not weights:
        raise ValueError('no weights to choose ranks for')
    chosen = resolve_criterion(criterion)
    if chosen.reads == 'data':
        raise ValueError(
            f'criterion {criterion!r} reads batches of training data, which weights alone are not: put '
            f'lora_ranks={criterion!r} into a config and call mmlora.apis.settle_ranks(cfg) (tools/train.py does), or '
            'give tools/stable_rank.py the config with --config'
        )
    check_total(criterion, budget)
    for name, weight in weights.items():
        if weight.ndim != 2 or not weight.numel():
            raise ValueError(f'{name} must be a matrix, got the shape {tuple(weight.shape)}')
    pieces = pieces_of({name: tuple(weight.shape) for name, weight in weights.items()}, slices, rank_per)
    spectra = [spectrum(weights[p.module][p.rows], p.name, cache, chosen.reads) for p in pieces]
    values = [chosen.value(s) for s in spectra]
    sha256 = None if chosen.reads == 'shape' else weights_sha256(weights)
    return table_of(pieces, values, criterion, budget, source, sha256, size, spectra)


def table_of(
    pieces: Sequence[Piece],
    values: Sequence[float | Sequence[float]],
    criterion: str,
    budget: Mapping[str, float] | None = None,
    source: str = '',
    sha256: str | None = None,
    size: int | None = None,
    spectra: Sequence[Spectrum] | None = None,
) -> RankTable:
    """Allocate ranks by values that are known.

    Args:
        pieces: The parts that take a rank.
        values: For each piece its value, or the descending scores of its components. In the table, the value of a piece
            with scores is the sum of those that it was given.
        criterion: Name for the rows.
        budget: As in :func:`mmlora.ranks.budget.check_budget`.
        source: Where the values came from, for people.
        sha256: Hash of the weights behind the values, or None.
        size: Parameters of the backbone, for a budget by ``share``.
        spectra: Of the pieces, for the table.

    Raises:
        ValueError: The criterion needs a total and the budget has none, or the budget cannot be met.
    """
    check_total(criterion, budget)
    scored = [not isinstance(value, (int, float)) for value in values]
    sites = [
        Site(0.0 if many else value, p.cost, p.limit, value if many else None, p.name)
        for p, value, many in zip(pieces, values, scored, strict=True)
    ]
    ranks = allocate(sites, budget, size)
    rows = []
    for i, (piece, site, rank) in enumerate(zip(pieces, sites, ranks, strict=True)):
        value = site.value if site.scores is None else float(sum(site.scores[:rank]))
        sigma1, fro = (spectra[i].sigma1, spectra[i].fro) if spectra else (None, None)
        rows.append(RankRow(piece.module, rank, criterion, value, sigma1, fro, rank * site.cost, piece.part))
    return RankTable(tuple(rows), source, sha256, dict(budget) if budget else None)


def check_total(criterion: str, budget: Mapping[str, float] | None) -> None:
    """Check that a criterion whose values only compare weights with each other comes with a total.

    Raises:
        ValueError: It does not, or the budget is not valid.
    """
    if check_budget(budget).kind is None and resolve_criterion(criterion).needs_budget:
        raise ValueError(
            f'criterion {criterion!r} says how weights compare, not how large ranks are: it needs a budget with one of '
            f'{TOTALS}, such as dict(mean_rank=8), got {budget!r}'
        )


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return one hash for named weights, independent of their order and of the file that held them."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f'{name} {tensor_sha256(weights[name])}\n'.encode())
    return digest.hexdigest()
