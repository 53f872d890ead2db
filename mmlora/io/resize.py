"""Position embeddings and tables for another image or window size, each as the library that it is from resizes it."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def _interpolate(grid: Tensor, **options: object) -> Tensor:
    """Interpolate ``(H, W, D)`` by ``torch``, in float32 at least."""
    wide = grid if grid.dtype == torch.float64 else grid.float()
    maps = F.interpolate(wide.permute(2, 0, 1)[None], mode='bicubic', align_corners=False, **options)
    return maps[0].permute(1, 2, 0).to(grid.dtype)


def _bicubic(grid: Tensor, size: Size) -> Tensor:
    return _interpolate(grid, size=size)


def _antialias(grid: Tensor, size: Size) -> Tensor:
    return _interpolate(grid, size=size, antialias=True)


def _dino(grid: Tensor, size: Size) -> Tensor:
    """Scale by ``(size + 0.1) / H``: the offset guards DINO's floor, and shifts the positions that are read."""
    factors = [(new + 0.1) / old for new, old in zip(size, grid.shape[:2], strict=True)]
    return _interpolate(grid, scale_factor=factors)


def _google(grid: Tensor, size: Size) -> Tensor:
    """Interpolate linearly between corners, as ``scipy.ndimage.zoom`` of order 1."""
    from scipy.ndimage import zoom  # its import is slow, and few weights need it

    factors = (size[0] / grid.shape[0], size[1] / grid.shape[1], 1)
    return torch.from_numpy(zoom(grid.float().numpy() if grid.dtype.itemsize < 4 else grid.numpy(), factors, order=1))


POSITIONS: dict[str, Callable[[Tensor, Size], Tensor]] = {
    'google': _google,
    'antialias': _antialias,
    'dino': _dino,
    'bicubic': _bicubic,
}
"""Ways to resize a grid ``(H, W, D)``: Google's code; timm and open_clip; DINO and DINOv2; Hugging Face and MAE."""


def resize_positions(
    table: Tensor, size: Size, extra: int, own_extra: int, how: str, source: Size | None = None
) -> Tensor:
    """Fit a position embedding to another grid and to another number of tokens before the patches.

    Args:
        table: ``(1, N, D)``: rows of class or distillation tokens, then those of patches row by row.
        size: The grid of the model, height and width in patches.
        extra: Number of tokens before the patches in the file. Where the table has no rows for them (timm's
            ``no_embed_class``), they get zeros, which is the same network.
        own_extra: That of the model. Rows that it has no tokens for are left out.
        how: A name in :data:`POSITIONS`.
        source: The grid of the file; by default a square one, or that of the model where the numbers agree.

    Returns:
        ``(1, own_extra + size[0] * size[1], D)``.

    Raises:
        ValueError: The grid of the file cannot be told, or the file lacks tokens that the model has.
    """
    count, patches = table.shape[1], size[0] * size[1]
    if source is None:
        rows = next((r for r in (extra, 0) if count - r == patches or math.isqrt(count - r) ** 2 == count - r), None)
        if rows is None:
            raise ValueError(
                f'the position embedding has {count} rows, {extra} of them before the patches: the rest is no square, '
                f'and the model has {size[0]} x {size[1]}. Give the grid of the file: source_grid=(height, width)'
            )
        side = math.isqrt(count - rows)
        source = size if count - rows == patches else (side, side)
    else:
        rows = count - source[0] * source[1]
        if rows not in (extra, 0):
            raise ValueError(f'the position embedding has {count} rows, which is not {source[0]} x {source[1]} patches '
                             f'and {extra} more')
    if own_extra > extra:
        raise ValueError(f'the model has {own_extra} tokens before the patches, the file {extra}')
    first = table[:, :rows] if rows else table.new_zeros(1, extra, table.shape[2])
    grid = table[0, rows:].reshape(*source, -1)
    if tuple(source) != tuple(size):
        grid = POSITIONS[how](grid, size).to(table.dtype)
    return torch.cat([first[:, :own_extra], grid.reshape(1, patches, -1)], dim=1)


def resize_bias_table(table: Tensor, count: int, how: str) -> Tensor:
    """Fit a table of relative positions ``(L, heads)`` to a window of another size, ``(count, heads)``.

    ``'antialias'`` stands for timm, which interpolates linearly between geometrically spaced positions; all others
    follow the official Swin: bicubic over the table.

    Raises:
        ValueError: A window is not square.
    """
    old, new = math.isqrt(len(table)), math.isqrt(count)
    if old * old != len(table) or new * new != count:
        raise ValueError(f'a table of relative positions has {len(table)} rows, the model {count}: only tables of '
                         'square windows can be resized')
    grid = table.reshape(old, old, -1)
    return (_geometric if how == 'antialias' else _bicubic)(grid, (new, new)).reshape(count, -1)


def _geometric(grid: Tensor, size: Size) -> Tensor:
    """Interpolate ``(S, S, H)`` between positions whose distances grow by a ratio that fits them to the new size."""
    places = _geometric_places(grid.shape[0], size[0])
    wanted = np.arange(-(size[0] // 2), size[0] // 2 + 1.0)
    right = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    share = (wanted - places[right - 1]) / (places[right] - places[right - 1])
    weight = np.zeros((size[0], len(places)))
    weight[np.arange(size[0]), right - 1] = 1 - np.clip(share, 0, 1)
    weight[np.arange(size[0]), right] = np.clip(share, 0, 1)
    matrix = torch.from_numpy(weight)
    return torch.einsum('ai,bj,ijh->abh', matrix, matrix, grid.double()).to(grid.dtype)


def _geometric_places(old: int, new: int) -> np.ndarray:
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old // 2)) / (1 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum([ratio**power for power in range(old // 2)])
    return np.concatenate([-steps[::-1], [0.0], steps])
