"""The hash of the frozen weights of a backbone, by which LoRAs, banks and generators say what they stand on."""

from collections.abc import Mapping

import torch
import torch.nn as nn
from torch import Tensor

from ..adapters import adapter_tensor_names
from ..ranks import weights_sha256

TERMS, APART = 63, (1021, 31)
"""How many words are added up, and how far apart they lie, first of most and then of what is left: odd, so that equal
changes of the highest bit of all do not cancel, and primes, so that rows that change places are added to others."""


def base_sha256(backbone: nn.Module) -> str:
    """Return the hash of the weights of a backbone as float32, without its adapters; a hub has the same.

    A model keeps the hash, so that a hundred adapters are compared with it without hashing its weights as often. Before
    it is believed, all bits of the weights are read and compared with those of then by sums, which costs a reading of
    memory: PyTorch's counts of the writes to a tensor know nothing of writes through ``.data``.
    """
    own = adapter_tensor_names(backbone)
    state = backbone.state_dict(keep_vars=True)  # Without them a bank of adapters would be copied for nothing.
    base = {name: value.detach() for name, value in state.items() if name not in own}
    mark = _mark(base)
    known = vars(backbone).get('known_base')
    if known is None or known[0] != mark:
        digest = weights_sha256({name: torch.atleast_1d(value.float()) for name, value in base.items()})
        known = backbone.known_base = (mark, digest)
    return known[1]


def _mark(tensors: Mapping[str, Tensor]) -> tuple:
    """Return what tells tensors from those that they were before any write to them."""
    return tuple((name, t.dtype, tuple(t.shape), _checksum(t)) for name, t in tensors.items())


def _checksum(tensor: Tensor) -> int:
    """Return a number of 64 bits in which all bits of a tensor and their places count.

    Words of 64 bits are added up in small groups, which is as fast as memory is read, and Python hashes the sums. It is
    no defence against somebody who looks for a write that changes nothing, who could as well write to the hash.
    """
    flat = tensor.reshape(-1).contiguous()
    data = (flat.clone() if flat.storage_offset() % 8 else flat).view(torch.uint8)  # Views as words must be aligned.
    sums = []
    for apart in APART:
        size = 8 * TERMS * apart
        end = data.numel() // size * size
        words = data[:end].view(torch.int64).view(-1, TERMS, apart)
        sums.append(words.sum(1).cpu().numpy().tobytes())
        data = data[end:]
    return hash((*sums, data.cpu().numpy().tobytes()))
