"""Models: adapted backbones and CLIP."""

from .backbones import AdaptedBackbone, RLRRSwin, RLRRViT, SwinSR_LoRA, VitSR_LoRA
from .clip import LoRACLIP, LoRACLIPClassifier, LoRACLIPVision

__all__ = [
    'AdaptedBackbone',
    'LoRACLIP',
    'LoRACLIPClassifier',
    'LoRACLIPVision',
    'RLRRSwin',
    'RLRRViT',
    'SwinSR_LoRA',
    'VitSR_LoRA',
]
