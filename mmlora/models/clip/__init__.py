"""CLIP with LoRA on its towers."""

from .arch import ARCHS, CLIPArch, find_arch
from .classifier import LoRACLIPClassifier
from .lora_clip import LoRACLIP
from .openai_keys import convert_openai_keys, restore_openai_keys
from .tokenizers import CLIPTokenizer, WordTokenizer
from .vision import LoRACLIPVision

__all__ = [
    'ARCHS',
    'CLIPArch',
    'CLIPTokenizer',
    'LoRACLIP',
    'LoRACLIPClassifier',
    'LoRACLIPVision',
    'WordTokenizer',
    'convert_openai_keys',
    'find_arch',
    'restore_openai_keys',
]
