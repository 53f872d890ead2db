"""Hooks: each does one job around training."""

from .accumulation_hook import AccumulationHook
from .adapter_folder_hook import AdapterFolderHook
from .checkpoint_hook import CheckpointHook
from .class_names_hook import ClassNamesHook
from .compile_hook import CompileHook
from .feature_cache_hook import FeatureCacheHook
from .fit_generator_hook import FitGeneratorHook
from .lora_bank_hook import LoRABankHook
from .meta_lora_distillation_hook import MetaLoRADistillationHook
from .progress_hook import ProgressHook
from .protocol_hook import ProtocolHook
from .spu_hook import SPUHook
from .stable_rank_hook import StableRankHook
from .start_training_hook import StartTrainingHook
from .step_seed_hook import StepSeedHook
from .strict_load_hook import StrictLoadHook
from .tip_adapter_search_hook import TipAdapterSearchHook
from .two_stage_hook import TwoStageHook

__all__ = [
    'AccumulationHook',
    'AdapterFolderHook',
    'CheckpointHook',
    'ClassNamesHook',
    'CompileHook',
    'FeatureCacheHook',
    'FitGeneratorHook',
    'LoRABankHook',
    'MetaLoRADistillationHook',
    'ProgressHook',
    'ProtocolHook',
    'SPUHook',
    'StableRankHook',
    'StartTrainingHook',
    'StepSeedHook',
    'StrictLoadHook',
    'TipAdapterSearchHook',
    'TwoStageHook',
]
