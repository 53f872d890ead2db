"""Mixup (Zhang et al., arXiv 1710.09412) or CutMix (Yun et al., arXiv 1905.04899) of a whole batch, with soft targets.

As timm's ``Mixup`` in its mode ``batch`` does it, which the published RLRR and SSF runs with augmentation use: an image
is mixed with its mirror image in the order of the batch (the first with the last), by one ratio a batch, and labels are
smoothed before they are mixed. The same state of numpy's generator gives the same draws. mmpretrain's ``Mixup`` and
``CutMix`` pair images by a random permutation instead and leave smoothing to the loss.

Deviations:
    * The box of CutMix is that of timm 0.9, of the published runs, and of mmpretrain: both sides are rounded down to an
      even number of pixels. Newer timm keeps odd ones. The ratio of the labels follows the box in either.
    * A batch of an odd number of images is taken, where timm refuses it: the image in the middle stays unmixed.
"""

import numpy as np
import torch
from mmpretrain.models.utils.batch_augments import CutMix
from torch import Tensor

from ..registry import BATCH_AUGMENTS, register


def smooth_targets(targets: Tensor, smoothing: float) -> Tensor:
    """Move a part of each target to all classes alike.

    Args:
        targets: One-hot labels ``(B, C)``.
        smoothing: The part, from 0 to 1; a class that is right keeps ``1 - smoothing + smoothing / C``.
    """
    return targets * (1 - smoothing) + smoothing / targets.shape[1]


def mix_mirrored(values: Tensor, ratio: float) -> Tensor:
    """Return ``ratio * values + (1 - ratio) * values in reversed order``.

    Args:
        values: Images ``(B, ...)`` or targets ``(B, C)``.
        ratio: From 0 to 1.
    """
    return values * ratio + values.flip(0) * (1 - ratio)


def paste_mirrored(images: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Return images with a box of each taken from the image at the mirrored place of the batch.

    Args:
        images: Images ``(B, 3, H, W)``.
        box: First and end row, first and end column.
    """
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed


@register(BATCH_AUGMENTS)
class MixupCutMix:
    """Mixup or CutMix, drawn anew for each batch, with smoothed labels.

    For ``model.train_cfg=dict(augments=dict(type='MixupCutMix'))``, with
    ``loss=dict(type='CrossEntropyLoss', use_soft=True)`` in the head, and ``data_preprocessor.num_classes``. The draws
    are from numpy's generator, which ``StepSeedHook`` seeds for each step.

    Args:
        mixup: Both parameters of the Beta distribution from which Mixup draws its ratio; 0 leaves Mixup out.
        cutmix: That of CutMix; 0 leaves CutMix out.
        prob: Probability that a batch is mixed at all. Labels are smoothed in any case.
        switch_prob: Probability of CutMix, where a batch is mixed and neither is left out.
        smoothing: Part of each label that goes to all classes alike.

    Raises:
        ValueError: A number is out of its range, or both are left out.
    """

    def __init__(
        self, mixup: float = 0.8, cutmix: float = 1.0, prob: float = 1.0, switch_prob: float = 0.5,
        smoothing: float = 0.1,
    ) -> None:
        for name, value in dict(mixup=mixup, cutmix=cutmix).items():
            if value < 0:
                raise ValueError(f'{name} must be at least 0, got {value}')
        for name, value in dict(prob=prob, switch_prob=switch_prob, smoothing=smoothing).items():
            if not 0 <= value <= 1:
                raise ValueError(f'{name} must lie in 0..1, got {value}')
        if not mixup and not cutmix:
            raise ValueError('mixup=0 and cutmix=0 leave nothing to do: give one of them, such as mixup=0.8, or leave '
                             'MixupCutMix out')
        self.mixup, self.cutmix = mixup, cutmix
        self.prob, self.switch_prob, self.smoothing = prob, switch_prob, smoothing
        self._box = CutMix(alpha=float(cutmix or 1)).cutmix_bbox_and_lam

    def draw(self) -> tuple[bool, float]:
        """Draw whether a batch gets CutMix, and the ratio; ``(False, 1.0)`` leaves it as it is."""
        if np.random.rand() >= self.prob:
            return False, 1.0
        box = not self.mixup
        if self.mixup and self.cutmix:
            box = bool(np.random.rand() < self.switch_prob)
        alpha = self.cutmix if box else self.mixup
        return box, float(np.random.beta(alpha, alpha))

    def __call__(self, batch_inputs: Tensor, batch_score: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            batch_inputs: Images ``(B, 3, H, W)``.
            batch_score: One-hot labels ``(B, C)``.

        Returns:
            Images and soft targets of the same shapes; the arguments are left as they are.

        Raises:
            ValueError: There is a single image, or the labels are not one-hot.
        """
        if batch_score.ndim != 2 or not torch.all((batch_score != 0).sum(1) == 1):
            raise ValueError('MixupCutMix takes one label an image, as one-hot vectors (B, C); got labels of the shape '
                             f'{tuple(batch_score.shape)}, some with none or several classes. Leave it out for data of '
                             'several labels an image')
        if len(batch_inputs) < 2:
            raise ValueError(f'MixupCutMix mixes the images of a batch, and there is a batch of {len(batch_inputs)}: '
                             'set a larger batch_size of train_dataloader; where it is the last batch of an epoch, set '
                             'drop_last=True there')
        targets = smooth_targets(batch_score.float(), self.smoothing)
        box, ratio = self.draw()
        if ratio == 1:
            return batch_inputs, targets
        if not box:
            return mix_mirrored(batch_inputs, ratio), mix_mirrored(targets, ratio)
        sides, ratio = self._box(batch_inputs.shape[-2:], ratio)
        return paste_mirrored(batch_inputs, sides), mix_mirrored(targets, ratio)
