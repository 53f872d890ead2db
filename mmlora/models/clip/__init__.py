"""CLIP with LoRA on its towers."""

from .arch import ARCHS, CLIPArch, find_arch
from .classifier import LoRACLIPClassifier
from .contrastive import ContrastiveCLIP
from .image_encoder import CLIPImageEncoder
from .lora_clip import LoRACLIP
from .methods import CLIPAdapter, CLIPLinearProbe, CoOpCLIP, LayerNormCLIP, TipAdapter, TwoStageCLIP
from .openai_keys import convert_openai_keys, restore_openai_keys
from .tokenizers import CLIPTokenizer, WordTokenizer
from .vision import LoRACLIPVision

__all__ = [
    'ARCHS',
    'CLIPAdapter',
    'CLIPArch',
    'CLIPImageEncoder',
    'CLIPLinearProbe',
    'CLIPLinearProbe',
    'CLIPTokenizer',
    'CoOpCLIP',
    'ContrastiveCLIP',
    'LayerNormCLIP',
    'LoRACLIP',
    'LoRACLIPClassifier',
    'LoRACLIPVision',
    'TipAdapter',
    'TwoStageCLIP',
    'WordTokenizer',
    'convert_openai_keys',
    'find_arch',
    'restore_openai_keys',
]
