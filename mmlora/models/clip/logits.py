"""From features to logits, in float32 or wider whatever the towers compute in."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalize(features: Tensor) -> Tensor:
    """Return features of length 1 along the last axis."""
    return F.normalize(wide(features), dim=-1)


def ensemble(features: Tensor, templates: int) -> Tensor:
    """Return one feature for each class: the mean of those of its templates, each of length 1, and normalised again.

    Args:
        features: ``(C * templates, D)``, those of a class beside each other.
        templates: Number of templates.

    Returns:
        ``(C, D)``.
    """
    features = normalize(features)
    if templates == 1:
        return features
    return normalize(features.unflatten(0, (-1, templates)).mean(dim=1))  # (C * t, D) -> (C, t, D) -> (C, D)


def cosine_logits(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """Return ``scale * cos`` of images ``(B, D)`` and normalised texts ``(C, D)``, ``(B, C)``."""
    with torch.autocast(images.device.type, enabled=False):
        images, texts = normalize(images), wide(texts)
        return scale * images @ texts.T.to(images.dtype)


class LogitScale:
    """What multiplies the cosines: a number, or the exponential of the checkpoint's ``logit_scale``.

    Args:
        scale: A positive number; ``'pretrained'``, the frozen one of the checkpoint; or ``'learned'``, which starts
            there.

    Raises:
        ValueError: It is none of these.
    """

    def __init__(self, scale: float | str) -> None:
        number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
        if not (number and math.isfinite(scale) and scale > 0) and scale not in ('pretrained', 'learned'):
            raise ValueError(f"logit_scale must be a positive number, 'pretrained' or 'learned', got {scale!r}")
        self.number = float(scale) if number else None
        self.learned = scale == 'learned'

    def value(self, parameter: nn.Parameter) -> Tensor | float:
        """Return the scale, given the parameter of the model."""
        return wide(parameter).exp() if self.number is None else self.number
