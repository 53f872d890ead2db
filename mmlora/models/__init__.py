"""Models: adapted backbones, CLIP, and what mixes batches."""

from .backbones import AdaptedBackbone, RLRRSwin, RLRRViT, SwinSR_LoRA, VitSR_LoRA, split_backbone
from .batch_augments import MixupCutMix
from .batch_norm_prior import BatchNormPrior, build_prior
from .clip import LoRACLIP, LoRACLIPClassifier, LoRACLIPVision
from .florence import FlorenceDetector
from .generators import (
    ConditionalPriorCVAE,
    ConvCVAE,
    EpisodicGenerator,
    LayerHyperNet,
    PCARidge,
    RetrievalGenerator,
)
from .heads import PrototypeHead, prototype_scores
from .meta_classifier import MetaClassifier
from .pretrained import PretrainedWeights

__all__ = [
    'AdaptedBackbone',
    'BatchNormPrior',
    'ConditionalPriorCVAE',
    'ConvCVAE',
    'EpisodicGenerator',
    'FlorenceDetector',
    'LayerHyperNet',
    'LoRACLIP',
    'LoRACLIPClassifier',
    'LoRACLIPVision',
    'MetaClassifier',
    'MixupCutMix',
    'PCARidge',
    'PretrainedWeights',
    'PrototypeHead',
    'RLRRSwin',
    'RLRRViT',
    'RetrievalGenerator',
    'SwinSR_LoRA',
    'VitSR_LoRA',
    'build_prior',
    'prototype_scores',
    'split_backbone',
]
