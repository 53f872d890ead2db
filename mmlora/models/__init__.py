"""Models: adapted backbones, CLIP, and what mixes batches."""

from .backbones import AdaptedBackbone, RLRRSwin, RLRRViT, SwinSR_LoRA, VitSR_LoRA
from .batch_augments import MixupCutMix
from .batch_norm_prior import BatchNormPrior, build_prior
from .clip import LoRACLIP, LoRACLIPClassifier, LoRACLIPVision
from .pretrained import PretrainedWeights

__all__ = [
    'AdaptedBackbone',
    'BatchNormPrior',
    'LoRACLIP',
    'LoRACLIPClassifier',
    'LoRACLIPVision',
    'MixupCutMix',
    'PretrainedWeights',
    'RLRRSwin',
    'RLRRViT',
    'SwinSR_LoRA',
    'VitSR_LoRA',
    'build_prior',
]
