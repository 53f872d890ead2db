"""Writing the backbone of a training checkpoint as a weight file of its own."""

import os
from pathlib import Path

from safetensors.torch import save

from ..io.atomic import write_bytes
from .episodes import backbone_weights


def export_backbone(checkpoint: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Write the backbone of a checkpoint as float32 safetensors with bare keys.

    Args:
        checkpoint: A training checkpoint.
        out: The file to write, ending in ``.safetensors``.

    Returns:
        The file that was written.

    Raises:
        ValueError: ``out`` has another ending, or the checkpoint holds no tensors.
        FileNotFoundError: There is no such checkpoint.
    """
    if Path(out).suffix != '.safetensors':
        raise ValueError(f'{os.fspath(out)!r} must end in .safetensors')
    state = {key: value.detach().float().contiguous() for key, value in backbone_weights(os.fspath(checkpoint)).items()}
    return write_bytes(out, save(state, metadata={'format': 'pt'}))
