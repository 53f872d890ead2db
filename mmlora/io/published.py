"""Read the adapters of checkpoints that the published SR-LoRA code wrote.

That code keeps one ``lora_A`` and one ``lora_B`` on a fused qkv, with the rows of q first and those of v after them::

    published                                  here
    layers.0.attn.qkv.lora_A  (2r, d)          lora_A_q = rows 0..r-1,  lora_A_v = rows r..2r-1
    layers.0.attn.qkv.lora_B  (2d, r)          lora_B_q = rows 0..d-1,  lora_B_v = rows d..2d-1
    layers.0.attn.proj.lora_{A,B}              the same names

Its Swin also carries a second ``attn.qkv`` and ``attn.proj`` in every block that no forward pass ever reads; they are
left out.
"""

import re
from collections.abc import Sequence

from torch import Tensor

_UNUSED = re.compile(r'stages\.\d+\.blocks\.\d+\.attn\.(qkv|proj)\.')


def convert_published(state_dict: dict[str, Tensor], prefix: str = '', slices: Sequence[str] = 'qv') -> int:
    """Rename and split published factors in place; a state dict without any is left as it is.

    Args:
        state_dict: Changed in place.
        prefix: Only keys that begin with it are read.
        slices: The adapted slices in the order of their rows.

    Returns:
        The number of fused projections that were split.

    Raises:
        ValueError: The rows of a factor do not divide among the slices.
    """
    for key in [k for k in state_dict if k.startswith(prefix) and _UNUSED.match(k[len(prefix) :])]:
        del state_dict[key]
    count = 0
    for key in [k for k in state_dict if k.startswith(prefix) and re.search(r'\.qkv\.lora_[AB]$', k)]:
        stacked = state_dict.pop(key)
        if stacked.shape[0] % len(slices):
            raise ValueError(f'{key} has {stacked.shape[0]} rows, which do not divide among the slices {slices!r}')
        for name, part in zip(slices, stacked.chunk(len(slices)), strict=True):
            state_dict[f'{key}_{name}'] = part.clone()
        count += key.endswith('lora_A')
    return count
