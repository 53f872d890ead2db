"""Florence-2 with LoRA; needs the extra ``florence``."""

from .detector import FlorenceDetector

__all__ = ['FlorenceDetector']
