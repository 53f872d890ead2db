"""What changes a frozen weight: adapted linears, the injector, freezing, merging and the parameter report."""

from .at_rank import at_rank, sub_rank_layers
from .freeze import adapter_parameter_names, freeze
from .injector import adapted_layers, inject, inject_exact
from .kinds import KINDS
from .lora import LoRALinear
from .low_rank import LowRankLinear
from .merging import merge_adapters, merged_state_dict, unmerge_adapters
from .report import ParameterReport, parameter_report
from .scaling import SCALINGS
from .sliced import SlicedLoRALinear
from .spu import DISTRIBUTIONS, draw_sub_ranks
from .sub_rank import ROWS, SubRankLinear

__all__ = [
    'DISTRIBUTIONS',
    'KINDS',
    'ROWS',
    'SCALINGS',
    'LoRALinear',
    'LowRankLinear',
    'ParameterReport',
    'SlicedLoRALinear',
    'SubRankLinear',
    'adapted_layers',
    'adapter_parameter_names',
    'at_rank',
    'draw_sub_ranks',
    'freeze',
    'inject',
    'inject_exact',
    'merge_adapters',
    'merged_state_dict',
    'parameter_report',
    'sub_rank_layers',
    'unmerge_adapters',
]
