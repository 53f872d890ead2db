"""Hooks, loops and optimizer wrappers."""

from .hooks import StableRankHook, StepSeedHook

__all__ = ['StableRankHook', 'StepSeedHook']
