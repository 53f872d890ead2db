"""What changes a frozen weight: adapted linears, the injector, freezing, merging and the parameter report."""

from .freeze import adapter_parameter_names, freeze
from .injector import adapted_layers, inject, inject_exact
from .kinds import KINDS
from .lora import LoRALinear
from .low_rank import LowRankLinear
from .merging import merge_adapters, merged_state_dict, unmerge_adapters
from .report import ParameterReport, parameter_report
from .scaling import SCALINGS
from .sliced import SlicedLoRALinear

__all__ = [
    'KINDS',
    'SCALINGS',
    'LoRALinear',
    'LowRankLinear',
    'ParameterReport',
    'SlicedLoRALinear',
    'adapted_layers',
    'adapter_parameter_names',
    'freeze',
    'inject',
    'inject_exact',
    'merge_adapters',
    'merged_state_dict',
    'parameter_report',
    'unmerge_adapters',
]
