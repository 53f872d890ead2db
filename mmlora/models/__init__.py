"""Models: adapted backbones."""

from .backbones import AdaptedBackbone, SwinSR_LoRA, VitSR_LoRA

__all__ = ['AdaptedBackbone', 'SwinSR_LoRA', 'VitSR_LoRA']
