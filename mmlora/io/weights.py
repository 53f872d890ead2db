"""From any checkpoint to one flat state dict of tensors."""

from torch import Tensor

from .checkpoint import load_checkpoint
from .nests import NESTS, unwrap

__all__ = ['NESTS', 'load_state_dict', 'unwrap']


def load_state_dict(path: str, convert: bool = True) -> dict[str, Tensor]:
    """Read a checkpoint of any supported kind and return its tensors, on the CPU.

    Args:
        path: A file (``.pth``, ``.safetensors``, ``.npz``) or anything else that the checkpoint loader takes.
        convert: Whether weights of a known layout come as those of mmpretrain's backbone; False keeps the names of
            the file, and with them what a backbone has no place for (text towers, heads).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, is no checkpoint, or holds no tensors.
    """
    return unwrap(load_checkpoint(path, map_location='cpu', convert=convert), str(path))
