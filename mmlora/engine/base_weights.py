"""The hash of the frozen weights of a backbone, by which LoRAs, banks and generators say what they stand on."""

from collections.abc import Mapping

import torch
import torch.nn as nn
from torch import Tensor

from ..adapters import adapter_tensor_names
from ..ranks import weights_sha256

SAMPLES = 32
"""Numbers of each tensor that are looked at before a known hash is believed."""


def base_sha256(backbone: nn.Module) -> str:
    """Return the hash of the weights of a backbone as float32, without its adapters; a hub has the same.

    A model keeps the hash with what tells its tensors from others, so that a hundred adapters are compared with it for
    the price of one: their places in memory, PyTorch's counts of the writes to each, and some of their numbers, since
    writes through ``.data`` are not counted.
    """
    own = adapter_tensor_names(backbone)
    base = {name: value for name, value in backbone.state_dict().items() if name not in own}
    mark = _mark(base)
    known = vars(backbone).get('known_base')
    if known is None or known[0] != mark:
        digest = weights_sha256({name: torch.atleast_1d(value.float()) for name, value in base.items()})
        known = backbone.known_base = (mark, digest)
    return known[1]


def _mark(tensors: Mapping[str, Tensor]) -> tuple:
    """Return what tells tensors from those that they were before a write to them."""
    where = tuple((name, t.data_ptr(), t._version, t.dtype, tuple(t.shape)) for name, t in tensors.items())
    some = [t.detach().reshape(-1)[:: max(1, t.numel() // SAMPLES)].float() for t in tensors.values()]
    return where, torch.cat(some).cpu().numpy().tobytes() if some else b''
