"""Images on their way to CLIP, and features of images, which need no way."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from mmpretrain.models import ClsDataPreprocessor
from torch import Tensor

from ...registry import MODELS, register

STATISTICS = dict(
    mean=[122.7709383, 116.7460125, 104.09373615], std=[68.5005327, 66.6321579, 70.32316305], to_rgb=True
)
"""Those of CLIP, for images from 0 to 255."""

_STOCK = ('ClsDataPreprocessor', 'mmpretrain.ClsDataPreprocessor')


@register(MODELS)
class CLIPDataPreprocessor(ClsDataPreprocessor):
    """mmpretrain's preprocessor, with its arguments, which lets features of images through as they are.

    Features are one vector for each sample: ``(B, D)``, or a list of ``(D,)``. They are moved to the device; labels are
    treated as those of images.
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch; see the class.

        Raises:
            ValueError: Features are to be mixed as images are.
        """
        if not _are_features(data['inputs']):
            return super().forward(data, training)
        if training and self.batch_augments is not None:
            raise ValueError('batch_augments of the data_preprocessor mix images, and the batch holds features of '
                             'images: leave batch_augments out, or give images')
        features = self.cast_data(data['inputs'])
        features = features if isinstance(features, Tensor) else torch.stack(list(features))
        # Labels are prepared beside an image of one pixel, which takes no time.
        labels = super().forward({**data, 'inputs': features.new_zeros(len(features), 3, 1, 1)})
        return {**labels, 'inputs': features}


def preprocessor_config(given: Mapping[str, Any] | nn.Module | None) -> Mapping[str, Any] | nn.Module:
    """Return what a classifier builds its preprocessor from: the statistics of CLIP, unless others are given.

    Args:
        given: As of mmpretrain's classifiers. Its own type becomes the one that knows features; any other stays.
    """
    if isinstance(given, nn.Module):
        return given
    given = dict(given or {})
    if given.get('type') in (None, *_STOCK, ClsDataPreprocessor):
        given['type'] = 'mmlora.CLIPDataPreprocessor'
    return {**STATISTICS, **given}


def _are_features(inputs: Any) -> bool:
    if isinstance(inputs, Tensor):
        return inputs.ndim == 2
    return bool(len(inputs)) and isinstance(inputs[0], Tensor) and inputs[0].ndim == 1
