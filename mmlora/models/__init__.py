"""Models: adapted backbones, and what mixes their batches."""

from .backbones import AdaptedBackbone, RLRRSwin, RLRRViT, SwinSR_LoRA, VitSR_LoRA
from .batch_augments import MixupCutMix

__all__ = ['AdaptedBackbone', 'MixupCutMix', 'RLRRSwin', 'RLRRViT', 'SwinSR_LoRA', 'VitSR_LoRA']
