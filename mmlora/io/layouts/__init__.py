"""The table of layouts of weights: one file for each family, one row for each way to name the weights.

A new layout is a row in the ``LAYOUTS`` of a file here. Rows with more signs come before those with fewer.
"""

from . import clip, google, hf_vit, swin, timm_vit
from .base import Layout, Rule, Template
from .mmpretrain import own_layouts

_FOREIGN = (*google.LAYOUTS, *timm_vit.LAYOUTS, *swin.LAYOUTS, *hf_vit.LAYOUTS, *clip.LAYOUTS)
OWN = {layout.name: layout for layout in own_layouts(_FOREIGN)}
"""The rows of mmpretrain itself."""

LAYOUTS: dict[str, Layout] = {**OWN, **{layout.name: layout for layout in _FOREIGN}}
"""Every row by its name, in the order in which a file is compared with them."""

__all__ = ['LAYOUTS', 'OWN', 'Layout', 'Rule', 'Template']
