"""Models: adapted backbones, and what mixes their batches."""

from .backbones import AdaptedBackbone, RLRRSwin, RLRRViT, SwinSR_LoRA, VitSR_LoRA
from .batch_augments import MixupCutMix
from .pretrained import PretrainedWeights

__all__ = ['AdaptedBackbone', 'MixupCutMix', 'PretrainedWeights', 'RLRRSwin', 'RLRRViT', 'SwinSR_LoRA', 'VitSR_LoRA']
