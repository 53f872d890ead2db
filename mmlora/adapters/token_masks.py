"""Masks of patches: which of them an image keeps, as data beside the image.

Part of LoRA-Recycle (Hu et al., CVPR 2025, section 4.3). A mask says True where a patch is kept; patches are
counted from 0 by rows. The published code writes images with black patches and guesses the mask from the pixels when it
reads them, which takes a patch that is really black for a masked one; here masks are kept, as text of one hexadecimal
digit for four patches.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .token_pruning import TokenRecord, check_ratio, kept_patches


def mask_of_record(record: TokenRecord, num_patches: int, ratio: float = 0.0) -> Tensor:
    """Return which patches images keep after pruning and, on top of that, after masking.

    Args:
        record: Of a forward pass.
        num_patches: P of an image.
        ratio: Part in [0, 1) of the tokens that have left the last layer to mask further: the ``int(n * ratio)`` to
            which the class token attends least there. The last layer may have pruned itself.

    Returns:
        bool ``(B, P)``.
    """
    check_ratio('a mask ratio', ratio)
    patches = record.kept[:, 1:] - 1
    weight = record.attention.new_zeros(len(patches), num_patches)
    weight.scatter_(1, record.entered[:, 1:] - 1, record.attention)
    stay = kept_patches(weight.gather(1, patches), ratio)
    mask = torch.zeros(len(patches), num_patches, dtype=torch.bool, device=patches.device)
    return mask.scatter_(1, patches.gather(1, stay), True)


def mask_images(images: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return images with zeros in the patches that are not kept.

    Args:
        images: ``(B, C, H, W)``, pixels from 0, so that masked ones are black.
        mask: bool ``(B, P)``.
        grid: Rows and columns of the patches; they divide the image.
    """
    patches = mask.to(images.dtype).reshape(len(mask), 1, *grid)
    return images * F.interpolate(patches, images.shape[-2:], mode='nearest')


def encode_mask(mask: Tensor | Sequence[bool]) -> str:
    """Return the mask ``(P,)`` of an image as hexadecimal text, the first patch in the highest bit."""
    return np.packbits(np.asarray(mask, dtype=bool)).tobytes().hex()


def decode_mask(text: str, num_patches: int) -> Tensor:
    """Return the mask ``(P,)`` that :func:`encode_mask` has made text of.

    Raises:
        ValueError: The text is no mask of so many patches, or keeps none of them.
    """
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    except (TypeError, ValueError):
        raise ValueError(f'{text!r} is no mask: hexadecimal digits are') from None
    if len(bits) != -(-num_patches // 8) * 8 or bits[num_patches:].any():
        raise ValueError(f'{text!r} is no mask of {num_patches} patches')
    if not bits.any():
        raise ValueError(f'the mask {text!r} keeps no patch')
    return torch.from_numpy(bits[:num_patches].astype(bool))
