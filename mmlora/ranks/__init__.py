"""How large r is: criteria, budgets, and the table of ranks."""

from .allocate import build_rank_table, table_of, weights_sha256
from .budget import BUDGETS, Site, allocate, check_budget
from .criteria import CRITERIA, Criterion, effective_rank, energy, is_criterion, resolve_criterion, stable_rank
from .export import table_to_csv, table_to_figure, table_to_snippet
from .nested import flatten_sites, nest_ranks, ranks_by_module
from .pieces import RANK_PER, Piece, check_rank_per, pieces_of, slice_rows
from .presets import PRESETS
from .spectrum import Spectrum, product_spectrum, spectrum
from .table import RankRow, RankTable

__all__ = [
    'BUDGETS',
    'CRITERIA',
    'PRESETS',
    'RANK_PER',
    'Criterion',
    'Piece',
    'RankRow',
    'RankTable',
    'Site',
    'Spectrum',
    'allocate',
    'build_rank_table',
    'check_budget',
    'check_rank_per',
    'effective_rank',
    'energy',
    'flatten_sites',
    'is_criterion',
    'nest_ranks',
    'pieces_of',
    'product_spectrum',
    'ranks_by_module',
    'resolve_criterion',
    'slice_rows',
    'spectrum',
    'stable_rank',
    'table_of',
    'table_to_csv',
    'table_to_figure',
    'table_to_snippet',
    'weights_sha256',
]
