"""Hooks, loops, optimizer wrappers and schedules."""

from .hooks import (
    AccumulationHook,
    AdapterFolderHook,
    CheckpointHook,
    ClassNamesHook,
    CompileHook,
    ProtocolHook,
    SPUHook,
    StableRankHook,
    StepSeedHook,
    StrictLoadHook,
    TwoStageHook,
)
from .loops import EpochTrainLoop, IterTrainLoop
from .muon import MuonAdamW
from .optim_wrappers import BF16OptimWrapper
from .schedulers import LateCosineRestartLR, LateWarmupCosineLR

__all__ = [
    'AccumulationHook',
    'AdapterFolderHook',
    'BF16OptimWrapper',
    'CheckpointHook',
    'ClassNamesHook',
    'CompileHook',
    'EpochTrainLoop',
    'IterTrainLoop',
    'LateCosineRestartLR',
    'LateWarmupCosineLR',
    'MuonAdamW',
    'ProtocolHook',
    'SPUHook',
    'StableRankHook',
    'StepSeedHook',
    'StrictLoadHook',
    'TwoStageHook',
]
