"""What a layer with LoRA must be to become one of several in a bank."""

import torch

from .low_rank import LowRankLinear
from .parted import WHOLE


def check_member(first: LowRankLinear, layer: LowRankLinear, number: int) -> None:
    """Check a layer.

    Args:
        first: The first one of the bank.
        layer: Another one, or the first.
        number: Its number.

    Raises:
        ValueError: It is merged, has a dropout in training, other slices, or another frozen weight or bias.
    """
    if layer.merged:
        raise ValueError(f'adapter {number} is merged: call unmerge() first')
    if getattr(layer.lora_dropout, 'p', 0) and layer.training:
        raise ValueError(f'adapter {number} has a dropout of {layer.lora_dropout.p}, which a bank has not: call eval() '
                         'where the bank is not to be trained, or build it without')
    if getattr(layer, 'layout', WHOLE) != getattr(first, 'layout', WHOLE):
        raise ValueError(f'adapter {number} has the slices {getattr(layer, "layout", WHOLE)}, adapter 0 '
                         f'{getattr(first, "layout", WHOLE)}')
    for name in ('weight', 'bias'):
        own, other = getattr(first, name), getattr(layer, name)
        if own is not other and (own is None or other is None or not torch.equal(own, other)):
            raise ValueError(f'adapter {number} stands on another {name} than adapter 0: a bank has one frozen layer')
