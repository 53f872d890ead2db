"""Ways to adapt CLIP beside LoRA."""

from .clip_adapter import CLIPAdapter
from .coop import CoOpCLIP
from .layer_norm import LayerNormCLIP
from .linear_probe import CLIPLinearProbe
from .tip_adapter import TipAdapter
from .two_stage import TwoStageCLIP

__all__ = ['CLIPAdapter', 'CLIPLinearProbe', 'CoOpCLIP', 'LayerNormCLIP', 'TipAdapter', 'TwoStageCLIP']
