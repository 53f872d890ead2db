"""What becomes one of the LoRAs of a bank: a layer with LoRA, its factors, or a state dict."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn as nn

from .lora_weights import Pair, pairs_of
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


def pairs_of_state(state: LowRankLinear | Mapping[str, Any], scaling: Callable[[str], float]) -> dict[str, Pair]:
    """Return factors by slice.

    Args:
        state: A layer with LoRA, ``{slice: Pair}``, or a state dict with its names.
        scaling: That of a slice of a state dict, which says none.

    Raises:
        ValueError: A state dict has no factors, or an A without its B.
        TypeError: The layer is adapted in another way.
    """
    if isinstance(state, nn.Module):
        return pairs_of(state, 'the adapter')
    if all(isinstance(value, Pair) for value in state.values()):
        return dict(state)
    pairs = {}
    for end in [name.removeprefix('lora_A') for name in state if name.startswith('lora_A')]:
        if f'lora_B{end}' not in state:
            raise ValueError(f'the state has lora_A{end} and no lora_B{end}')
        part = end.removeprefix('_')
        pairs[part] = Pair(state[f'lora_A{end}'], state[f'lora_B{end}'], scaling(part))
    if not pairs:
        raise ValueError(f'the state has no factors, only {sorted(state)[:5]}')
    return pairs
