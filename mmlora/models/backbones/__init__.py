"""Adapted backbones."""

from .adapted import AdaptedBackbone
from .rlrr_swin import RLRRSwin
from .rlrr_vit import RLRRViT
from .split import split_backbone
from .swin_sr_lora import SwinSR_LoRA
from .vit_sr_lora import VitSR_LoRA

__all__ = ['AdaptedBackbone', 'RLRRSwin', 'RLRRViT', 'SwinSR_LoRA', 'VitSR_LoRA', 'split_backbone']
