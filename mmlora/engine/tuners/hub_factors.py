"""The LoRAs of a hub on the backbone of a model that is tested."""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ...adapters import LoRAWeights, Pair, attach_bank, detach_bank
from ...io.hub import LoRAHub
from ...ranks import weights_sha256
from ..hub_distillation import check_preparation


def read_hub(
    folder: str | os.PathLike, model: nn.Module, members: Sequence[int | str] | None = None
) -> tuple[list[str], list[LoRAWeights]]:
    """Read the LoRAs of a hub.

    Args:
        folder: The hub.
        model: Stands on the weights of the hub, and prepares images as it did.
        members: Names or places; None takes all.

    Returns:
        The names and the LoRAs.

    Raises:
        FileNotFoundError: There is no hub.
        ValueError: It stands on other weights, or images are prepared otherwise.
    """
    hub = LoRAHub.open(folder)
    state = {name: torch.atleast_1d(value.float()) for name, value in model.backbone.state_dict().items()}
    hub.check_base(weights_sha256(state), 'the backbone that is tested')
    check_preparation(hub, model.data_preprocessor)
    names = [hub.name_of(member) for member in (hub if members is None else members)]
    if not names:
        raise ValueError('members=[] leaves no LoRA of the hub: name some, or leave it out for all')
    return names, hub.adapters(names)


@contextmanager
def with_adapters(backbone: nn.Module, adapters: Sequence[LoRAWeights]) -> Any:
    """Give a plain backbone LoRAs within a ``with`` block.

    What learned before learns afterwards, whatever the block freezes.
    """
    before = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
    attach_bank(backbone, adapters)
    try:
        yield
    finally:
        detach_bank(backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(before[name])


class StackedLoRAs:
    """LoRAs with one axis for all of them, so that a weighted sum is one product.

    ``combine(w)`` is ``merge_lora(adapters, 'factors', w)``: ``(sum w_m s_m B_m) (sum w_m A_m)``.

    Args:
        adapters: M of them; ranks and layers may differ.
        like: Gives device and type.
    """

    def __init__(self, adapters: Sequence[LoRAWeights], like: Tensor) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.factors: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        for key in dict.fromkeys(key for adapter in adapters for key in adapter):
            rank = max(adapter[key].rank for adapter in adapters if key in adapter)
            first = next(adapter[key] for adapter in adapters if key in adapter)
            zeros = Pair(torch.zeros_like(first.a), torch.zeros_like(first.b), 1.0)
            pairs = [adapter.get(key, zeros) for adapter in adapters]
            a = torch.stack([F.pad(p.a.to(dtype), (0, 0, 0, rank - p.rank)) for p in pairs])  # (M, r, in)
            b = torch.stack([F.pad(p.b.to(dtype) * p.scaling, (0, rank - p.rank)) for p in pairs])  # (M, rows, r)
            self.factors[key] = a.to(like.device), b.to(like.device)

    def combine(self, weights: Tensor) -> LoRAWeights:
        """Return the LoRA of weights ``(M,)``."""
        return {key: Pair(torch.tensordot(weights.to(a), a, 1), torch.tensordot(weights.to(b), b, 1), 1.0)
                for key, (a, b) in self.factors.items()}

    def draw_members(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the places of ``count`` random members, ascending, or of all where there are no more."""
        total = len(next(iter(self.factors.values()))[0])
        return torch.randperm(total, generator=generator)[:count].sort().values

    def __len__(self) -> int:
        """Return M."""
        return len(next(iter(self.factors.values()))[0])
