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
from collections.abc import Collection

from torch import Tensor

_UNUSED = re.compile(r'stages\.\d+\.blocks\.\d+\.attn\.(qkv|proj)\.')
_STACKED = re.compile(r'\.qkv\.lora_[AB]$')


def convert_published(state_dict: dict[str, Tensor], own: Collection[str], prefix: str = '') -> int:
    """Rename and split published factors in place; what the model knows by its own name is left as it is.

    Args:
        state_dict: Changed in place.
        own: Keys of the model, without the prefix.
        prefix: Only keys that begin with it are read.

    Returns:
        The number of fused projections that were split.

    Raises:
        ValueError: The rows of a factor do not divide among the adapted slices of the model.
    """
    count = 0
    for key in [k for k in state_dict if k.startswith(prefix) and k[len(prefix) :] not in own]:
        name = key[len(prefix) :]
        slices = [s for s in 'qkv' if f'{name}_{s}' in own]
        if _STACKED.search(name) and slices:
            stacked = state_dict.pop(key)
            if stacked.shape[0] % len(slices):
                raise ValueError(f'{key} has {stacked.shape[0]} rows, which do not divide among the slices {slices}')
            for part, rows in zip(slices, stacked.chunk(len(slices)), strict=True):
                state_dict[f'{key}_{part}'] = rows.clone()
            count += name.endswith('lora_A')
        elif _UNUSED.match(name):
            del state_dict[key]
    return count
