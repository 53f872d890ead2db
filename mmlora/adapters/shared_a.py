"""One A for many LoRAs: drawn from a seed, the same in every training, and frozen, so that B alone learns.

The changes ``B A`` of two such LoRAs add as their B do, and no rotation of the components can tell them apart that mean
the same. Freezing A alone is LoRA-FA (Zhang et al., 2023, arXiv 2308.03303).
"""

import torch
import torch.nn as nn

from ..randomness import derive_seed
from .adapted import adapter_modules
from .lora_weights import pairs_of


def shared_a_generator(seed: int) -> torch.Generator:
    """Return what draws the A that LoRAs of a seed share, layer by layer, in the order of the model."""
    return torch.Generator().manual_seed(derive_seed('hub shared A', seed))


@torch.no_grad()
def share_a(model: nn.Module, seed: int) -> None:
    """Give the LoRA of a model the A of a seed, and freeze it.

    It is the A with which a hub of the same seed, layers and rank trains.

    Args:
        model: Has LoRA; changed in place.
        seed: Of the A.

    Raises:
        ValueError: The model has no adapter.
        TypeError: A layer is adapted in another way than by LoRA.
    """
    layers = adapter_modules(model)
    if not layers:
        raise ValueError('the model has no adapted layer whose A could be shared')
    generator = shared_a_generator(seed)
    for name, layer in layers.items():
        pairs_of(layer, name)
        for a, _ in layer.factors().values():
            bound = a.shape[1] ** -0.5
            a.copy_(torch.empty(a.shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator))
            a.requires_grad_(False)
