"""All weights learn in each episode, and are put back afterwards, bit for bit.

With a linear head the baseline "Full fine-tuning" of LoRA-Recycle (Hu et al., CVPR 2025), whose table 2 has SGD with
the rate 0.1 and 50 steps. With prototypes and views the last stage of P>M>F (Hu et al., CVPR 2022, arXiv
2204.07305): the class means of the support classify changed copies of it. P>M>F chooses the rate of each domain on
validation episodes; here the rate is a setting, and nothing is chosen on tests.

Deviations from P>M>F: squared distances to the class means, not scaled cosines; SGD in the config, not Adam; views are
shifted and of another brightness, not of other colours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ...registry import TUNERS, register
from .feature_tuner import SGD
from .heads import HEADS, check_head, check_optimizer, episode_loss, fit
from .test_images import TestImages
from .tuner import EpisodeTuner, NumberedEpisode, support_labels, whole
from .views import draw_views


@register(TUNERS, bare=False)
class FullTuner(EpisodeTuner):
    """Fits the whole model and a head to the support, one episode after the other.

    Args:
        head: ``'linear'`` or ``'prototype'``.
        steps: Steps of the optimizer.
        optimizer: Config of the optimizer.
        views: Changed copies of each support image that are classified in each step, drawn anew; 0 classifies the
            support itself.

    Raises:
        ValueError: A number is out of range, the head is unknown, or the optimizer is.
    """

    needs_images = True

    def __init__(
        self, head: str = 'linear', steps: int = 50, optimizer: Mapping[str, Any] = SGD, views: int = 0
    ) -> None:
        super().__init__(together=1)
        self.head, self.optimizer = check_head(head), check_optimizer(optimizer)
        self.steps, self.views = whole('steps', steps, 0), whole('views', views, 0)
        self._images: TestImages
        self._kept: list[tuple[nn.Parameter, Tensor]] = []

    def start(self, images: TestImages) -> None:
        """Keep a copy of all weights, and let them learn."""
        self._images = images.check_gradients()
        parts = [images.backbone, *([images.model.neck] if getattr(images.model, 'with_neck', False) else [])]
        self._kept = [(p, p.detach().clone()) for part in parts for p in part.parameters()]
        self._undo.callback(self._kept.clear)
        for parameter, _ in self._kept:
            self._undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(True)

    def scores(self, episodes: Sequence[NumberedEpisode], images: Tensor) -> Tensor:
        """See :class:`EpisodeTuner`."""
        (one,), labels = episodes, support_labels(episodes[0].episode)
        support, query = images[0, : len(labels)], images[0, len(labels) :]
        generator, features = one.generator('views'), self._images.features
        with torch.no_grad():
            like = features(support[:1])
        heads = HEADS[self.head](episodes, like.shape[-1], like)

        def loss() -> Tensor:
            asked = support
            if self.views:
                asked = torch.cat([support, draw_views(support, self.views, generator)])
            found = features(asked)
            known, seen = found[: len(labels)], found[len(labels) :] if self.views else found
            return episode_loss(heads.scores(known[None], seen[None]), labels.repeat(max(self.views, 1)))

        try:
            fit([*(p for p, _ in self._kept), *heads.parameters], loss, self.optimizer, self.steps)
            with torch.no_grad():
                return heads.scores(features(support)[None], features(query)[None])
        finally:
            with torch.no_grad():
                for parameter, before in self._kept:
                    parameter.copy_(before)
                    parameter.grad = None
