"""The kinds of adapted linear, by the name that a config uses."""

from .lora import LoRALinear
from .low_rank import LowRankLinear
from .sliced import SlicedLoRALinear

KINDS: dict[str, type[LowRankLinear]] = {'lora': LoRALinear, 'sliced_lora': SlicedLoRALinear}
