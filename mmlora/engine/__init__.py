"""Hooks, loops and optimizer wrappers."""

from .hooks import CheckpointHook, CompileHook, StableRankHook, StepSeedHook, StrictLoadHook
from .loops import EpochTrainLoop, IterTrainLoop
from .muon import MuonAdamW
from .optim_wrappers import BF16OptimWrapper

__all__ = [
    'BF16OptimWrapper',
    'CheckpointHook',
    'CompileHook',
    'EpochTrainLoop',
    'IterTrainLoop',
    'MuonAdamW',
    'StableRankHook',
    'StepSeedHook',
    'StrictLoadHook',
]
