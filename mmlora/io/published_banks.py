"""Banks that the published code of ICM-LoRA (IJCAI 2025, arXiv 2501.17635) and what builds on it wrote.

::

    epoch_<e>/adapter_model.safetensors   a checkpoint of peft: the factors under peft's names
    adapter_model_<i>.safetensors         the same, copied; i counts epoch_1, epoch_10, epoch_100, epoch_11 ...
    normalized_<name>_<i>.pth             "data": the factors in the order of their sorted names, each normalised;
                                          and for each name mean, std, length and shape of its tensor
    hidden_state.pth                      the task vector, (C,)

Of a tensor that does not vary, ``data`` holds NaN, since the published code divides by its deviation of zero; it is its
mean everywhere, and is read as that. Nothing in a file is ever run.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.lora_weights import LoRAWeights
from .bare_value import read_bare_value
from .lora_peft import own_weights
from .reader import read_checkpoint

_COPIED = re.compile(r'adapter_model_(\d+)\.safetensors')
_NORMALISED = re.compile(r'normalized_.*?(\d+)\.pth')
_EPOCH = re.compile(r'epoch_(\d+)')
_FIELDS = {'mean', 'std', 'length', 'shape'}
TASK_VECTOR = 'hidden_state.pth'


def published_files(folder: str | os.PathLike) -> dict[int, Path]:
    """Return the checkpoints of a folder by their epochs, in order.

    Numbers of copied and normalised files become epochs where they are those of a whole training, 0 to N - 1 with the
    subfolder ``50`` to which the published code moves the first 51; else they stay as they are.

    Args:
        folder: Of one task: with ``epoch_<e>``, copied or normalised files, or these in ``normalized_data`` and ``50``.

    Raises:
        FileNotFoundError: There is none of them.
        ValueError: There are several of one number, such as copied and normalised ones.
    """
    folder = Path(folder).expanduser()
    places = [folder, folder / 'normalized_data', folder / '50']
    paths = sorted(path for place in places if place.is_dir() for path in place.iterdir())
    found: dict[int, Path] = {}
    epochs = [(int(match[1]), path / 'adapter_model.safetensors') for path in paths
              if path.is_dir() and (match := _EPOCH.fullmatch(path.name))]
    numbered = [(int(match[1]), path) for path in paths
                for kind in (_COPIED, _NORMALISED) if (match := kind.fullmatch(path.name))]
    for number, path in epochs or numbered:
        if number in found:
            raise ValueError(f'{found[number]} and {path} have one number: give a folder with one kind of files')
        found[number] = path
    if not found:
        there = f'holds {sorted(p.name for p in folder.iterdir())[:5]}' if folder.is_dir() else 'does not exist'
        raise FileNotFoundError(f'{str(folder)!r} has no epoch_<e> folders, adapter_model_<i>.safetensors or '
                                f'normalized_<name>_<i>.pth of the published code, it {there}')
    if not epochs and sorted(found) == list(range(len(found))):
        order = published_epochs(len(found))
        found = {order[number]: path for number, path in found.items()}
    return dict(sorted(found.items()))


def published_epochs(count: int) -> list[int]:
    """Return which epoch each copied file is of: the names ``epoch_1`` to ``epoch_<count>`` sorted as text."""
    return sorted(range(1, count + 1), key=str)


def read_published_checkpoint(path: str | os.PathLike, alpha: float = 8.0, rslora: bool = True) -> LoRAWeights:
    """Read one checkpoint.

    Args:
        path: ``adapter_model*.safetensors`` or ``normalized_<name>_<i>.pth``.
        alpha: Of its training; the files do not say.
        rslora: Whether the scaling is ``alpha / sqrt(r)``, as in the published code, and not ``alpha / r``.

    Returns:
        The LoRA on the plain backbone that peft adapted.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else, is damaged, too long or too short.
    """
    path = Path(path)
    content = read_checkpoint(path)
    tensors = _denormalised(content, path) if 'data' in content else content
    # With lm_head among the layers peft writes the frozen weight, too.
    factors = {key: value for key, value in tensors.items() if not key.endswith('.base_layer.weight')}
    ranks = {value.shape[0] for key, value in factors.items() if '.lora_A.' in key and value.ndim == 2}
    if len(ranks) != 1:
        raise ValueError(f'{path} has factors A of the ranks {sorted(ranks)}, where LoRAs of one rank are expected')
    config = dict(peft_type='LORA', r=ranks.pop(), lora_alpha=alpha, use_rslora=rslora)
    return own_weights(factors, config, {}, str(path))


def read_published_task_vector(path: str | os.PathLike) -> Tensor:
    """Read a task vector, ``(C,)``.

    Args:
        path: ``hidden_state.pth``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else, or values that are not finite.
    """
    path = Path(path)
    vector = read_bare_value(path, 'a tensor', 'it holds the task vector of the bank')
    if not isinstance(vector, Tensor) or vector.ndim != 1 or not vector.numel() or not vector.isfinite().all():
        said = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
        raise ValueError(f'{path} holds {said}, where a finite vector (C,) belongs')
    return vector.float()


def _denormalised(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of a normalised file."""
    data = torch.as_tensor(content['data']).flatten()
    entries = {key: value for key, value in content.items() if key != 'data'}
    tensors, start = {}, 0
    for key, about in sorted(entries.items()):
        if not isinstance(about, Mapping) or not _FIELDS <= set(about):
            raise ValueError(f'{path}: {key} has no mean, std, length and shape')
        shape, length = tuple(about['shape']), int(about['length'])
        if math.prod(shape) != length:
            raise ValueError(f'{path}: {key} has the length {length} and the shape {shape}')
        values, mean, std = data[start : start + length], float(about['mean']), float(about['std'])
        if len(values) < length:
            raise ValueError(f'{path}: "data" has {len(data)} values, too few for {key}, the values from {start} on')
        if not std > 0:  # Constant, or one element, of which torch's deviation is NaN.
            values = torch.zeros_like(values)
            std = 0.0
        tensors[key] = (values * std + mean).reshape(shape)
        start += length
    if start != len(data):
        raise ValueError(f'{path}: "data" has {len(data)} values, the tensors that it names {start}')
    _check_finite(tensors, path)
    return tensors


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    bad: Sequence[str] = [key for key, value in tensors.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(f'{path}: {bad[0]} holds values that are not finite')
