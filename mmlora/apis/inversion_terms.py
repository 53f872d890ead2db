"""The parts of an inversion step that are plain functions: augmentation, penalties, valid range and draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..randomness import derive_seed


@dataclass(frozen=True)
class Augmentation:
    """What is done to all images of a step alike.

    Attributes:
        shift: Pixels by which they move down and to the right; what leaves on one side comes back on the other.
        flip: Whether left and right are swapped afterwards.
    """

    shift: tuple[int, int]
    flip: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Return the augmented images, ``(B, C, H, W)``."""
        x = x.roll(self.shift, dims=(2, 3))
        return x.flip(3) if self.flip else x


def draw_augmentation(size: tuple[int, int], jitter: float, flip: float, seed: int, step: int) -> Augmentation:
    """Draw the augmentation of a step, a pure function of its arguments.

    Args:
        size: Height and width of the images.
        jitter: Largest shift, as a part of height and width.
        flip: Probability of a flip.
        seed: Of the inversion.
        step: From 0.
    """
    generator = torch.Generator().manual_seed(derive_seed('inversion step', seed, step))
    down, right = (int(torch.randint(-reach, reach + 1, (), generator=generator)) for reach in _reaches(size, jitter))
    return Augmentation((down, right), bool(torch.rand((), generator=generator) < flip))


def draw_start(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw the images that an inversion starts from, of unit variance in normalised space, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed('inversion start', seed))
    return torch.randn(tuple(shape), generator=generator, dtype=dtype)


def total_variation(x: Tensor) -> Tensor:
    """Return the sum of the mean absolute differences of neighbours in four directions, of ``(B, C, H, W)``."""
    down, right = x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]
    falling, rising = x[:, :, 1:, 1:] - x[:, :, :-1, :-1], x[:, :, :-1, 1:] - x[:, :, 1:, :-1]
    return sum(difference.abs().mean() for difference in (down, right, falling, rising))


def valid_range(mean: Sequence[float], std: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of each channel in normalised space, ``(C, 1, 1)`` each.

    Pixels in [0, 1] are meant.
    """
    mean, std = (like.new_tensor(part)[:, None, None] for part in (mean, std))
    return -mean / std, (1 - mean) / std


def to_pixels(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return normalised images ``(B, C, H, W)`` as pixels in [0, 1]."""
    mean, std = (x.new_tensor(part)[:, None, None] for part in (mean, std))
    return (x * std + mean).clamp(0, 1)


def _reaches(size: tuple[int, int], jitter: float) -> list[int]:
    return [int(length * jitter) for length in size]
