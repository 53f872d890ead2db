"""How large r is: criteria, budgets, and the table of ranks."""

from .allocate import build_rank_table, weights_sha256
from .budget import BUDGETS, Site, allocate
from .criteria import CRITERIA, resolve_criterion, stable_rank
from .export import table_to_csv, table_to_figure, table_to_snippet
from .nested import flatten_sites, nest_ranks, ranks_by_module
from .presets import PRESETS
from .spectrum import Spectrum, product_spectrum, spectrum
from .table import RankRow, RankTable

__all__ = [
    'BUDGETS',
    'CRITERIA',
    'PRESETS',
    'RankRow',
    'RankTable',
    'Site',
    'Spectrum',
    'allocate',
    'build_rank_table',
    'flatten_sites',
    'nest_ranks',
    'product_spectrum',
    'ranks_by_module',
    'resolve_criterion',
    'spectrum',
    'stable_rank',
    'table_to_csv',
    'table_to_figure',
    'table_to_snippet',
    'weights_sha256',
]
