"""Adapted backbones."""

from .adapted import AdaptedBackbone
from .swin_sr_lora import SwinSR_LoRA
from .vit_sr_lora import VitSR_LoRA

__all__ = ['AdaptedBackbone', 'SwinSR_LoRA', 'VitSR_LoRA']
