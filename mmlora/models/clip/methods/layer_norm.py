"""CLIP whose layer normalisations learn, and nothing else.

The first stage of 2SFS (Farina et al., CVPR 2025, arXiv 2503.11609) as a method of its own: gamma and beta of every
``nn.LayerNorm`` of one tower or both, those before and after the blocks included. Features of the classes are computed
anew in every step, as in CLIP-LoRA. All of them decay alike, as there: their optimizer has one group.
"""

from collections.abc import Callable
from typing import Any

import torch.nn as nn

from ....adapters import LayerNormTune, freeze
from ....registry import MODELS, register
from ..classifier import LoRACLIPClassifier, adapted_towers
from .arguments import check_no_lora, refuse_merging

MODULES = {'vision': 'visual', 'text': 'text'}
"""Tower -> its name within the classifier."""


def tower_parameters(model: nn.Module, encoder: str, learned: Callable[[nn.Module], set[str]]) -> set[str]:
    """Return the full names of parameters of the towers.

    Args:
        model: A CLIP classifier.
        encoder: ``'vision'``, ``'text'`` or ``'both'``.
        learned: Of a tower, gives the names of its parameters within it.

    Raises:
        ValueError: The encoder is unknown, or ``'none'``.
    """
    towers = adapted_towers(encoder)
    if not towers:
        raise ValueError("encoder='none' would let nothing learn: choose 'vision', 'text' or 'both'")
    return {f'{MODULES[tower]}.{name}' for tower in towers for name in learned(getattr(model, MODULES[tower]))}


@register(MODELS)
class LayerNormCLIP(LoRACLIPClassifier):
    """CLIP whose layer normalisations learn: ``2 * width`` numbers each.

    A vision tower of n blocks has ``2 n + 2`` of them, a text tower ``2 n + 1``. Its checkpoints are those of a plain
    CLIP: ``LoRACLIP(encoder='none')`` takes them as they are.

    Args:
        encoder: Whose normalisations learn: ``'vision'``, ``'text'`` or ``'both'``.
        **kwargs: Of :class:`LoRACLIPClassifier`, but for those of LoRA.

    Raises:
        ValueError: The encoder is unknown, or ``'none'``.
        TypeError: An argument is unknown, or is about LoRA.
    """

    plain_config = refuse_merging(
        "LayerNormCLIP changes the weights of a plain CLIP themselves, so there is nothing to merge: a LoRACLIP with "
        "encoder='none' takes its checkpoints as they are"
    )

    def __init__(self, encoder: str = 'both', **kwargs: Any) -> None:
        check_no_lora('LayerNormCLIP', kwargs)
        super().__init__(encoder='none', **kwargs)
        learned = tower_parameters(self, encoder, LayerNormTune().learned)
        freeze(self, learned | ({'logit_scale'} if self.scale.learned else set()))
