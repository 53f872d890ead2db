"""Drawing one letter: a cached, size-normalised bitmap, then a random affine map, contrast and noise.

Everything random comes from a generator that the caller passes, so an image is a pure function of that generator's
seed. Images are light ink on a dark ground.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .glyph_fonts import font_path

IMAGE_SIZE = 32
BITMAP_SIZE = 64  # side of the cached bitmap, twice the image's: the affine map then halves it
INK_SIZE = 44  # longest side of the ink box inside the cached bitmap
_FONT_PIXELS = 96


@dataclass(frozen=True)
class Distortion:
    """How far a drawn letter may be from its clean bitmap; every range is symmetric around "no change".

    Attributes:
        rotation: Largest rotation, in degrees.
        scale: Largest relative change of size, such as 0.2 for factors from 1/1.2 to 1.2 (uniform in the logarithm).
        stretch: The same for the ratio of width to height.
        shear: Largest horizontal shear (tangent of the angle).
        shift: Largest shift along each axis, in pixels of the 32-pixel image.
        wave: Largest amplitude of a smooth random displacement field, in pixels of the 32-pixel image.
        blur: Largest standard deviation of a Gaussian blur, in pixels of the 32-pixel image.
        contrast: Largest loss of contrast, a part of the full range in 0..1.
        noise: Largest standard deviation of Gaussian pixel noise, a part of the full range.
    """

    rotation: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    wave: float = 0.0
    blur: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a negative range."""
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f'distortion {name}={value!r} must be a number of at least 0')


@lru_cache(maxsize=32)
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_path(name)), _FONT_PIXELS, layout_engine=ImageFont.Layout.BASIC)


@cache
def glyph_bitmap(code: int, font: str) -> np.ndarray:
    """Draw a letter, cut out its ink, scale its longest side to :data:`INK_SIZE` and centre it.

    Size and position are removed, since the random affine map makes them meaningless: capital and small letters
    that differ in size alone look the same (the splits keep only one of them).

    Args:
        code: The letter's code point.
        font: One of :data:`~mmlora.datasets.glyph_fonts.FONTS`.

    Returns:
        Read-only uint8 array ``(BITMAP_SIZE, BITMAP_SIZE)``, 255 is ink; all zero if the font draws nothing.
    """
    side = _FONT_PIXELS * 3
    canvas = Image.new('L', (side, side), 0)
    ImageDraw.Draw(canvas).text((_FONT_PIXELS, _FONT_PIXELS), chr(code), fill=255, font=_font(font))
    box = canvas.getbbox()
    out = np.zeros((BITMAP_SIZE, BITMAP_SIZE), np.uint8)
    if box is not None:
        ink = canvas.crop(box)
        factor = INK_SIZE / max(ink.size)
        width, height = (max(1, round(length * factor)) for length in ink.size)
        ink = ink.resize((width, height), Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR)
        top, left = (BITMAP_SIZE - height) // 2, (BITMAP_SIZE - width) // 2
        out[top : top + height, left : left + width] = np.asarray(ink)
    out.setflags(write=False)
    return out


def affine_matrix(distortion: Distortion, rng: np.random.Generator) -> np.ndarray:
    """Draw the affine map from the cached bitmap to the image.

    Args:
        distortion: The ranges.
        rng: Six numbers are drawn from it, whatever the ranges.

    Returns:
        ``(2, 3)`` float64: bitmap coordinates (x, y, 1) to image coordinates (x, y).
    """
    turn, size, ratio, shear, shift_x, shift_y = rng.uniform(-1, 1, 6)
    angle = math.radians(turn * distortion.rotation)
    scale = (1 + distortion.scale) ** size * IMAGE_SIZE / BITMAP_SIZE
    half_ratio = (1 + distortion.stretch) ** (ratio / 2)
    rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    skew = np.array([[1.0, shear * distortion.shear], [0.0, 1.0]])
    linear = rotate @ skew @ np.diag([scale * half_ratio, scale / half_ratio])
    centre_in, centre_out = (BITMAP_SIZE - 1) / 2, (IMAGE_SIZE - 1) / 2
    offset = centre_out + distortion.shift * np.array([shift_x, shift_y]) - linear @ np.full(2, centre_in)
    return np.column_stack([linear, offset])


def _warp(image: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    coarse = rng.uniform(-amplitude, amplitude, (2, 4, 4)).astype(np.float32)
    dx, dy = (cv2.resize(field, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC) for field in coarse)
    grid_y, grid_x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32)
    return cv2.remap(image, grid_x + dx, grid_y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def distort(bitmap: np.ndarray, distortion: Distortion, rng: np.random.Generator) -> np.ndarray:
    """Turn a clean bitmap into a distorted image.

    Args:
        bitmap: uint8 ``(BITMAP_SIZE, BITMAP_SIZE)``.
        distortion: The ranges.
        rng: The source of all randomness.

    Returns:
        uint8 ``(IMAGE_SIZE, IMAGE_SIZE)``.
    """
    matrix = affine_matrix(distortion, rng)
    image = cv2.warpAffine(bitmap, matrix, (IMAGE_SIZE, IMAGE_SIZE), flags=cv2.INTER_LINEAR).astype(np.float32)
    if distortion.wave:
        image = _warp(image, distortion.wave, rng)
    sigma = rng.uniform(0, distortion.blur)
    if sigma > 0.2:  # a narrower kernel is the identity on the pixel grid
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    loss, ground, noise = rng.uniform(0, 1, 3)
    loss *= distortion.contrast
    image = image * (1 - loss) + 255 * loss * ground
    if distortion.noise:
        grain = rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
        image += 255 * noise * distortion.noise * grain
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
