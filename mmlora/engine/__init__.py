"""Hooks, loops and optimizer wrappers."""

from .hooks import (
    AccumulationHook,
    CheckpointHook,
    CompileHook,
    ProtocolHook,
    SPUHook,
    StableRankHook,
    StepSeedHook,
    StrictLoadHook,
)
from .loops import EpochTrainLoop, IterTrainLoop
from .muon import MuonAdamW
from .optim_wrappers import BF16OptimWrapper

__all__ = [
    'AccumulationHook',
    'BF16OptimWrapper',
    'CheckpointHook',
    'CompileHook',
    'EpochTrainLoop',
    'IterTrainLoop',
    'MuonAdamW',
    'ProtocolHook',
    'SPUHook',
    'StableRankHook',
    'StepSeedHook',
    'StrictLoadHook',
]
