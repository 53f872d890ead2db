"""What the tools and Python users call."""

from .rank_report import parse_budget, ranks_from_checkpoint
from .settle import settle_ranks

__all__ = ['parse_budget', 'ranks_from_checkpoint', 'settle_ranks']
