"""What changes a frozen backbone: adapted linears, the injector, ways to tune a whole one, freezing and merging."""

from .adapted import AdaptedLayer, adapter_modules
from .adaptformer import AdaptFormer
from .added import AddedModule, added_modules
from .arithmetic import MERGES, merge_lora
from .at_rank import at_rank, sub_rank_layers
from .bank import LoRABank
from .banked import Member, attach_bank, detach_bank, find_banks, put_adapter, route, take_adapter
from .bitfit import BitFit
from .dora import DoRALinear
from .freeze import adapter_parameter_names, adapter_tensor_names, freeze
from .full_fine_tune import FullFineTune
from .glora import GLoRALinear
from .head_bank import HeadBank
from .houlsby import Houlsby
from .injector import adapted_layers, inject, inject_exact
from .kinds import KINDS, look_up_kind
from .layer_norm_tune import LayerNormTune
from .linear_probe import LinearProbe
from .lora import LoRALinear
from .lora_spec import LoRAEntry, LoRASpec, lora_tensors
from .lora_weights import LoRAWeights, Pair, adapt_with, draw_lora, read_lora
from .low_rank import LowRankLinear
from .melora import MELoRALinear
from .merging import merge_adapters, merged_state_dict, to_plain, unmerge_adapters
from .moslora import MoSLoRALinear
from .multihead import LoRAMultiheadAttention
from .multihead_injector import PlainMultiheadAttentionLoRA, inject_attention
from .named import NamedAdapters, add_adapter, named_adapters, remove_adapter, use_adapters
from .pissa import PiSSALinear
from .report import ParameterReport, parameter_report
from .rlrr import RLRRLinear
from .rlrr_conv import RLRRConv2d, inject_rlrr_conv
from .scale_shift import ScaleShift, ScaleShiftConv2d, ScaleShiftLayerNorm, inject_scale_shift
from .scaling import SCALINGS
from .sliced import SlicedLoRALinear
from .sparse_tokens import SparseTokens
from .spu import DISTRIBUTIONS, draw_sub_ranks
from .ssf import SSF
from .sub_rank import ROWS, SubRankLinear
from .token_masks import decode_mask, encode_mask, mask_images, mask_of_record
from .token_pruning import TokenPruning, TokenRecord
from .tuning import Tuning, find_tuning, tunings
from .twin import frozen_twin
from .vpt import VPT

__all__ = [
    'DISTRIBUTIONS',
    'KINDS',
    'MERGES',
    'ROWS',
    'SCALINGS',
    'SSF',
    'VPT',
    'AdaptFormer',
    'AdaptedLayer',
    'AddedModule',
    'BitFit',
    'DoRALinear',
    'FullFineTune',
    'GLoRALinear',
    'HeadBank',
    'Houlsby',
    'LayerNormTune',
    'LinearProbe',
    'LoRABank',
    'LoRAEntry',
    'LoRALinear',
    'LoRAMultiheadAttention',
    'LoRASpec',
    'LoRAWeights',
    'LowRankLinear',
    'MELoRALinear',
    'Member',
    'MoSLoRALinear',
    'NamedAdapters',
    'Pair',
    'ParameterReport',
    'PiSSALinear',
    'PlainMultiheadAttentionLoRA',
    'RLRRConv2d',
    'RLRRLinear',
    'ScaleShift',
    'ScaleShiftConv2d',
    'ScaleShiftLayerNorm',
    'SlicedLoRALinear',
    'SparseTokens',
    'SubRankLinear',
    'TokenPruning',
    'TokenRecord',
    'Tuning',
    'adapt_with',
    'adapted_layers',
    'adapter_modules',
    'adapter_parameter_names',
    'adapter_tensor_names',
    'add_adapter',
    'added_modules',
    'at_rank',
    'attach_bank',
    'decode_mask',
    'detach_bank',
    'draw_lora',
    'draw_sub_ranks',
    'encode_mask',
    'find_banks',
    'find_tuning',
    'freeze',
    'frozen_twin',
    'inject',
    'inject_attention',
    'inject_exact',
    'inject_rlrr_conv',
    'inject_scale_shift',
    'look_up_kind',
    'lora_tensors',
    'mask_images',
    'mask_of_record',
    'merge_adapters',
    'merge_lora',
    'merged_state_dict',
    'named_adapters',
    'parameter_report',
    'put_adapter',
    'read_lora',
    'remove_adapter',
    'route',
    'sub_rank_layers',
    'take_adapter',
    'to_plain',
    'tunings',
    'unmerge_adapters',
    'use_adapters',
]
