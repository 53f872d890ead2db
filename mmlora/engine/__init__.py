"""Hooks, loops, optimizer wrappers and schedules."""

from .episode_loops import EpisodeTestLoop, EpisodeValLoop
from .episode_tuning import EpisodeTuningLoop
from .hooks import (
    AccumulationHook,
    AdapterFolderHook,
    CheckpointHook,
    ClassNamesHook,
    CompileHook,
    FeatureCacheHook,
    FitGeneratorHook,
    LoRABankHook,
    MetaLoRADistillationHook,
    ProtocolHook,
    SPUHook,
    StableRankHook,
    StartTrainingHook,
    StepSeedHook,
    StrictLoadHook,
    TipAdapterSearchHook,
    TwoStageHook,
)
from .loops import EpochTrainLoop, IterTrainLoop
from .muon import MuonAdamW
from .optim_wrappers import BF16OptimWrapper
from .periodic_schedule import PeriodicWarmupCosineLR
from .schedulers import LateCosineRestartLR, LateWarmupCosineLR
from .training_free_loop import TrainingFreeLoop
from .wrappers import LearningDataParallel

__all__ = [
    'AccumulationHook',
    'AdapterFolderHook',
    'BF16OptimWrapper',
    'CheckpointHook',
    'ClassNamesHook',
    'CompileHook',
    'EpisodeTestLoop',
    'EpisodeTuningLoop',
    'EpisodeValLoop',
    'EpochTrainLoop',
    'FeatureCacheHook',
    'FitGeneratorHook',
    'IterTrainLoop',
    'LateCosineRestartLR',
    'LateWarmupCosineLR',
    'LearningDataParallel',
    'LoRABankHook',
    'MetaLoRADistillationHook',
    'MuonAdamW',
    'PeriodicWarmupCosineLR',
    'ProtocolHook',
    'SPUHook',
    'StableRankHook',
    'StartTrainingHook',
    'StepSeedHook',
    'StrictLoadHook',
    'TipAdapterSearchHook',
    'TrainingFreeLoop',
    'TwoStageHook',
]
