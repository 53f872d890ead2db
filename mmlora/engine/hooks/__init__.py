"""Hooks: each does one job around training."""

from .stable_rank_hook import StableRankHook
from .step_seed_hook import StepSeedHook

__all__ = ['StableRankHook', 'StepSeedHook']
