"""LoRAs that the published code of LoRA-Recycle wrote: ``lora_<i>.safetensors`` and ``global_label_<i>.pth``.

Hu et al., CVPR 2025; the layout is that of its files::

    published                        here
    w_a_<2l>, w_b_<2l>               layers.<l>.attn.qkv, slice q: A (r, D), B (D, r), scaling 1
    w_a_<2l+1>, w_b_<2l+1>           layers.<l>.attn.qkv, slice v
    fc_<D>in_<n>out                  weight of the head (n, D); its bias was not stored
    global_label_<i>.pth             a list of the numbers of the classes, in the order of the outputs

The list is read as plain data; nothing in a file is ever run.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapters.lora_weights import LoRAWeights, Pair
from .bare_value import read_bare_value
from .lora_folder import Head
from .peft_plain import check_finite
from .reader import read_checkpoint

_FACTOR = re.compile(r'w_([ab])_(\d+)')
_HEAD = re.compile(r'fc_(\d+)in_(\d+)out')
_MEMBER = re.compile(r'lora_(\d+)\.safetensors')


def read_published_lora(
    path: str | os.PathLike, site: str = 'visual.layers.{}.attn.qkv', bias: bool = True
) -> tuple[LoRAWeights, Head | None]:
    """Read a LoRA of the published code.

    Args:
        path: ``lora_<i>.safetensors``.
        site: Name of the fused projection of a block, whose number takes the place of ``{}``.
        bias: Whether a head gets the bias 0, which the file does not hold. False leaves the head out.

    Returns:
        The LoRA and its head, None where the file has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    path = Path(path)
    tensors = read_checkpoint(path)
    check_finite(tensors, str(path))
    factors: dict[int, dict[str, Tensor]] = {}
    head = None
    for key, value in tensors.items():
        factor, fc = _FACTOR.fullmatch(key), _HEAD.fullmatch(key)
        if factor:
            factors.setdefault(int(factor[2]), {})[factor[1]] = value
        elif fc and tuple(value.shape) == (int(fc[2]), int(fc[1])):
            head = Head(value, value.new_zeros(len(value))) if bias else None
        else:
            raise ValueError(f'{path} holds {key} of the shape {tuple(value.shape)}: a LoRA of the published code '
                             'holds w_a_000, w_b_000 ... and fc_<D>in_<n>out')
    if not factors or sorted(factors) != list(range(len(factors))) or len(factors) % 2:
        raise ValueError(f'{path} has factors of the numbers {sorted(factors)}, where q and v of each block belong: an '
                         'even number of them, from 0')
    weights: LoRAWeights = {}
    for number in range(len(factors)):
        pair = factors[number]
        if set(pair) != set('ab') or pair['a'].ndim != 2 or pair['a'].shape != pair['b'].shape[::-1]:
            shapes = {f'w_{name}_{number:03d}': tuple(value.shape) for name, value in sorted(pair.items())}
            raise ValueError(f'{path}: A (r, D) and B (D, r) belong together, got {shapes}')
        weights[site.format(number // 2), 'qv'[number % 2]] = Pair(pair['a'], pair['b'], 1.0)
    return weights, head


def read_published_labels(path: str | os.PathLike) -> list[int]:
    """Read the numbers of the classes of a LoRA.

    Args:
        path: ``global_label_<i>.pth``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds anything but a list of whole numbers; nothing of it is run.
    """
    path = Path(path)
    missing = 'it says which classes the LoRA beside it tells apart'
    content = read_bare_value(path, 'a list of numbers', missing)
    numbers = _numbers(content)
    if numbers is None:
        raise ValueError(f'{path} holds {str(content)[:80]}, where a list of whole numbers of classes belongs')
    return numbers


def published_members(folder: str | os.PathLike) -> dict[int, tuple[Path, Path]]:
    """Return the files of the LoRAs in a folder by their numbers.

    Raises:
        FileNotFoundError: There is no folder, or no LoRA in it.
    """
    folder = Path(folder).expanduser()
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    found = sorted(int(match[1]) for match in map(_MEMBER.fullmatch, names) if match)
    if not found:
        there = f'holds {sorted(names)[:5]}' if folder.is_dir() else 'does not exist'
        raise FileNotFoundError(f'{str(folder)!r} has no lora_<i>.safetensors of the published code, it {there}')
    return {i: (folder / f'lora_{i}.safetensors', folder / f'global_label_{i}.pth') for i in found}


def _numbers(content: Any) -> list[int] | None:
    if isinstance(content, Tensor) and content.ndim == 1 and not content.is_floating_point():
        return content.tolist()
    if not isinstance(content, Sequence) or isinstance(content, str | bytes):
        return None
    values = [value.item() if isinstance(value, Tensor) and value.numel() == 1 else value for value in content]
    return values if values and all(isinstance(v, int) and not isinstance(v, bool) for v in values) else None
