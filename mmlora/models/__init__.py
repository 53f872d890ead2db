"""Models: adapted backbones."""

from .backbones import AdaptedBackbone, RLRRSwin, RLRRViT, SwinSR_LoRA, VitSR_LoRA

__all__ = ['AdaptedBackbone', 'RLRRSwin', 'RLRRViT', 'SwinSR_LoRA', 'VitSR_LoRA']
