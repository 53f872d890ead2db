"""What changes a frozen weight: adapted linears, the injector, freezing, merging and the parameter report."""

from .adapted import AdaptedLayer, adapter_modules
from .at_rank import at_rank, sub_rank_layers
from .freeze import adapter_parameter_names, freeze
from .injector import adapted_layers, inject, inject_exact
from .kinds import KINDS
from .lora import LoRALinear
from .low_rank import LowRankLinear
from .merging import merge_adapters, merged_state_dict, to_plain, unmerge_adapters
from .multihead import LoRAMultiheadAttention
from .multihead_injector import PlainMultiheadAttentionLoRA, inject_attention
from .report import ParameterReport, parameter_report
from .rlrr import RLRRLinear
from .rlrr_conv import RLRRConv2d, inject_rlrr_conv
from .scale_shift import ScaleShift, ScaleShiftConv2d, ScaleShiftLayerNorm, inject_scale_shift
from .scaling import SCALINGS
from .sliced import SlicedLoRALinear
from .spu import DISTRIBUTIONS, draw_sub_ranks
from .sub_rank import ROWS, SubRankLinear

__all__ = [
    'DISTRIBUTIONS',
    'KINDS',
    'ROWS',
    'SCALINGS',
    'AdaptedLayer',
    'LoRALinear',
    'LoRAMultiheadAttention',
    'LowRankLinear',
    'ParameterReport',
    'PlainMultiheadAttentionLoRA',
    'RLRRConv2d',
    'RLRRLinear',
    'ScaleShift',
    'ScaleShiftConv2d',
    'ScaleShiftLayerNorm',
    'SlicedLoRALinear',
    'SubRankLinear',
    'adapted_layers',
    'adapter_modules',
    'adapter_parameter_names',
    'at_rank',
    'draw_sub_ranks',
    'freeze',
    'inject',
    'inject_attention',
    'inject_exact',
    'inject_rlrr_conv',
    'inject_scale_shift',
    'merge_adapters',
    'merged_state_dict',
    'parameter_report',
    'sub_rank_layers',
    'to_plain',
    'unmerge_adapters',
]
