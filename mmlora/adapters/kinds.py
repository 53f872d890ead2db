"""The kinds of adapted linear, by the name that a config uses. Each brings its own form for fused projections."""

from .lora import LoRALinear
from .low_rank import LowRankLinear
from .rlrr import RLRRLinear

KINDS: dict[str, type[LowRankLinear]] = {'lora': LoRALinear, 'rlrr': RLRRLinear}
