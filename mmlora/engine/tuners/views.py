"""Changed copies of support images, which serve as queries: the support classifies itself too well."""

import torch
from torch import Tensor


def draw_views(
    images: Tensor, count: int, generator: torch.Generator, shift: float = 0.125, light: float = 0.2
) -> Tensor:
    """Return shifted copies of images that are lighter or darker.

    Translation and brightness of DiffAugment (Zhao et al., NeurIPS 2020, arXiv 2006.10738), which P>M>F tunes with; the
    edge is repeated where the image ends, as zeros are no colour of a normalised image.

    Args:
        images: Normalised, ``(S, C, H, W)``.
        count: Copies of each.
        generator: Draws on the CPU.
        shift: Largest shift, as a part of the side.
        light: Largest change of the brightness, in standard deviations.

    Returns:
        ``(count * S, C, H, W)``, all images once, then all of them again.
    """
    size = images.shape[-2:]
    limits = [round(shift * side) for side in size]
    views = []
    for _ in range(count):
        for image in images:
            rows, columns = (
                (torch.arange(side) + torch.randint(-limit, limit + 1, (), generator=generator)).clamp(0, side - 1)
                for side, limit in zip(size, limits, strict=True)
            )
            lighter = light * (2 * torch.rand((), generator=generator, dtype=torch.float64) - 1)
            moved = image[:, rows.to(image.device)[:, None], columns.to(image.device)]
            views.append(moved + float(lighter))
    return torch.stack(views)
