"""One picture that shows a pool: a row for each class, each image followed by what its masks leave of it."""

import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..adapters.token_masks import mask_images
from ..io.atomic import write_bytes
from ..io.pool import Pool, PoolImage

_SIDE, _GAP, _LABEL = 64, 4, 150


def contact_sheet(
    pool: Pool, out: str | os.PathLike, ratios: Sequence[float] = (), rows: int = 10, columns: int = 4
) -> Path:
    """Draw images of a pool with and without masks.

    Args:
        pool: The pool.
        out: The PNG to write.
        ratios: Masks to show behind each image.
        rows: Classes at most.
        columns: Images of a class at most.

    Returns:
        The file that was written.

    Raises:
        ValueError: The pool has no images, or no masks of a ratio.
    """
    by_class: dict[int, list[PoolImage]] = {}
    for image in pool.images:
        by_class.setdefault(image.gt_label, []).append(image)
    if not by_class:
        raise ValueError(f'{pool.folder} has no images to draw')
    shown = sorted(by_class)[:rows]
    width = max(min(columns, len(by_class[label])) for label in shown)
    step = _SIDE + _GAP
    block = step * (1 + len(ratios)) + 2 * _GAP
    sheet = Image.new('RGB', (_LABEL + width * block, len(shown) * step + 20), 'white')
    draw = ImageDraw.Draw(sheet)
    heads = ['image', *(f'-{ratio:.0%}' for ratio in ratios)]
    for column in range(width):
        for i, head in enumerate(heads):
            draw.text((_LABEL + column * block + i * step, 4), head, fill='black')
    for row, label in enumerate(shown):
        top = 20 + row * step
        name = '\n'.join(textwrap.wrap(pool.classes[label], 22)[:4])
        draw.multiline_text((4, top), name, fill='black')
        for column, image in enumerate(by_class[label][:columns]):
            pixels = pool.pixels(image)
            views = [pixels, *(_masked(pool, image, pixels, ratio) for ratio in ratios)]
            for i, view in enumerate(views):
                small = Image.fromarray(view).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
                sheet.paste(small, (_LABEL + column * block + i * step, top))
    content = io.BytesIO()
    sheet.save(content, 'PNG')
    return write_bytes(out, content.getvalue())


def _masked(pool: Pool, image: PoolImage, pixels: np.ndarray, ratio: float) -> np.ndarray:
    batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    masked = mask_images(batch, pool.mask(image, ratio)[None], tuple(pool.about['grid']))
    return masked[0].permute(1, 2, 0).byte().numpy()
