"""Training both towers of CLIP from images and their captions.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020,
figure 3: images and captions of a batch are compared with each other, and the cross-entropy of both directions is
averaged.

Deviations: several images of a batch may have one caption. It is encoded once, and the captions' side of the loss
counts each of its images equally. Images may be compared with captions of no image of the batch too, which makes small
batches as hard as large ones where captions cost less than images.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor

from ...registry import MODELS, register
from .classifier import LoRACLIPClassifier
from .logits import cosine_logits, ensemble

MAX_LOGIT_SCALE = 100.0  # As published.


def contrastive_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of images against captions and of captions against images.

    Args:
        logits: Scaled cosines of images and distinct captions, ``(B, L)``. The captions of the images come first;
            those behind them have no image.
        labels: Which caption each image has, ``(B,)``.

    Returns:
        A number.
    """
    images = F.cross_entropy(logits, labels)
    own = F.one_hot(labels).to(logits.dtype).T  # (B, those with images) -> (those with images, B)
    captions = F.cross_entropy(logits.T[: len(own)], own / own.sum(dim=1, keepdim=True))
    return (images + captions) / 2


@register(MODELS)
class ContrastiveCLIP(LoRACLIPClassifier):
    """A CLIP that learns all of its weights from scratch; without its loss it is the plain model, for zero-shot tests.

    The names of the classes are the captions. An image is compared with the captions of its batch alone, so that a
    step costs the same for any number of classes. The scale of the logits is learned and at most 100.

    Args:
        negatives: To how many captions of no image of the batch images are compared besides; drawn in every step, and
            fewer where there are not so many.
        **kwargs: Of :class:`LoRACLIPClassifier`, but for those of the adapters, the scale and the head.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: An argument is unknown, or one of those that this model sets itself.
    """

    def __init__(self, negatives: int = 0, **kwargs: Any) -> None:
        if isinstance(negatives, bool) or not isinstance(negatives, int) or negatives < 0:
            raise ValueError(f'negatives={negatives!r} must be a whole number of at least 0')
        own = dict(encoder='none', logit_scale='learned')
        taken = sorted((own.keys() | {'head'}) & kwargs.keys())
        if taken:
            raise TypeError(f'ContrastiveCLIP learns all weights from its own loss: leave out {", ".join(taken)}')
        super().__init__(**own, **kwargs)
        self.requires_grad_(True)
        self.negatives = negatives

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the scaled cosines of features of images ``(B, embed_dim)`` and of classes, ``(B, C)``."""
        return cosine_logits(images, texts, self.scale.value(self.logit_scale).clamp(max=MAX_LOGIT_SCALE))

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the contrastive loss of images ``(B, 3, H, W)`` and the captions of their labels.

        Raises:
            ValueError: A label has no name.
        """
        self._need_classes()
        labels = torch.cat([sample.gt_label for sample in data_samples])
        if int(labels.max()) >= len(self.classes):
            raise ValueError(f'a sample has the label {int(labels.max())}, and there are {len(self.classes)} names')
        with torch.no_grad():  # The parameter itself, which would get no gradient above the limit and stay there.
            self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        captions, places = labels.unique(return_inverse=True)
        if self.negatives:
            order = torch.randperm(len(self.classes)).to(captions.device)
            captions = torch.cat([captions, order[~torch.isin(order, captions)][: self.negatives]])
        # Compared without a limit, which rounding may put a little below the clamped scale.
        logits = super().compare(self.encode_image(inputs), self._captions(captions))
        return {'loss': contrastive_loss(logits, places)}

    def _captions(self, classes: Tensor) -> Tensor:
        """Return the normalised features of some classes, ``(L, embed_dim)``."""
        tokens = self._tokens.unflatten(0, (len(self.classes), -1))[classes].flatten(0, 1)
        features = self.encode_text(tokens)
        with torch.autocast(features.device.type, enabled=False):
            return ensemble(features, len(self.templates))
