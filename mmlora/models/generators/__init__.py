"""Generators of LoRAs: from a description of a task to the vector of a LoRA for it."""

from .closed_form import PCARidge, RetrievalGenerator
from .codec import LoRACodec
from .conv_cvae import ConditionalPriorCVAE, ConvCVAE
from .episodic import EpisodicGenerator
from .generator import LoRAGenerator
from .layer_hyper_net import LayerHyperNet
from .task_vectors import DecoderStates, MeanFeature, PrototypeStats, SetEncoder, SupportGradient, TaskEncoder

__all__ = [
    'ConditionalPriorCVAE',
    'ConvCVAE',
    'DecoderStates',
    'EpisodicGenerator',
    'LayerHyperNet',
    'LoRACodec',
    'LoRAGenerator',
    'MeanFeature',
    'PCARidge',
    'PrototypeStats',
    'RetrievalGenerator',
    'SetEncoder',
    'SupportGradient',
    'TaskEncoder',
]
