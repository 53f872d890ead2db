"""BitFit: the biases learn, and nothing else.

Ben Zaken, Goldberg, Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022, arXiv 2106.10199. Every bias learns, those of normalisations and of the patch embedding
included.
"""

import torch.nn as nn

from .tuning import Choice, parameters_where

BIASES = ('bias', 'in_proj_bias', 'q_bias', 'k_bias', 'v_bias')
"""Names of the biases of a layer. A table of relative position biases is none: it is looked up by position."""


class BitFit(Choice):
    """Let the biases of a backbone learn."""

    def learned(self, backbone: nn.Module) -> set[str]:
        """Return the names of the biases.

        Raises:
            ValueError: There is none.
        """
        found = parameters_where(backbone, lambda module, own: own in BIASES)
        if not found:
            raise ValueError(f'BitFit lets biases learn, and this {type(backbone).__name__} has none')
        return found
