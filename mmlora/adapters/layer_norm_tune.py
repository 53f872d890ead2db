"""Tuning of the layer normalisations: their weights and biases learn, and nothing else.

The baseline 'LN' of the SR-LoRA paper, arXiv 2507.00327, whose published code names a class that does not exist. The
weights and biases of every ``nn.LayerNorm`` of the backbone learn here, the final one included.
"""

import torch.nn as nn

from .tuning import Choice, parameters_where


class LayerNormTune(Choice):
    """Let the weights and biases of the layer normalisations of a backbone learn."""

    def learned(self, backbone: nn.Module) -> set[str]:
        """Return the names of the weights and biases of all layer normalisations.

        Raises:
            ValueError: There is none, as in a network with batch normalisation.
        """
        found = parameters_where(backbone, lambda module, own: isinstance(module, nn.LayerNorm))
        if not found:
            raise ValueError(
                f'LayerNormTune needs a backbone with nn.LayerNorm, such as ViT, Swin or ConvNeXt; this '
                f'{type(backbone).__name__} has none that learns'
            )
        return found
