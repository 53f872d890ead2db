"""Heads on frozen features: linear probe, and the average of a hub with prototypes or a linear head.

The baselines "Linear probe", "LoRAs Avg + NN" and "LoRAs Avg + Linear" of LoRA-Recycle (Hu et al., CVPR 2025). Each
image is encoded once, and the heads of all episodes learn from the features together.

The paper does not say what is averaged: ``merge='factors'`` averages A and B, ``'change'`` the change B A, cut to the
rank of the members; the other names in :data:`mmlora.adapters.MERGES` without a density work too. Its table 1 has SGD
with the rate 0.1 and 50 steps, which is the default here, for a LoRA; the settings of the probe are not published.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...adapters import MERGES, merge_lora
from ...registry import TUNERS, register
from .heads import HEADS, check_head, check_optimizer, episode_loss, fit
from .hub_factors import read_hub, with_adapters
from .test_images import TestImages
from .tuner import EpisodeTuner, NumberedEpisode, support_labels, whole

SGD = dict(type='SGD', lr=0.1)


def fit_and_score(
    head: str,
    episodes: Sequence[NumberedEpisode],
    support: Tensor,
    query: Tensor,
    optimizer: Mapping[str, Any],
    steps: int,
) -> Tensor:
    """Fit a head for each episode to its support, and score the queries.

    Args:
        head: A name in :data:`HEADS`.
        episodes: E of one size.
        support: ``(E, n_way * n_shot, D)`` features.
        query: ``(E, Q, D)``.
        optimizer: Config of the optimizer.
        steps: Steps of the optimizer.

    Returns:
        ``(E, Q, n_way)``.
    """
    heads, labels = HEADS[head](episodes, support.shape[-1], support), support_labels(episodes[0].episode)
    if heads.parameters:
        fit(heads.parameters, lambda: episode_loss(heads.scores(support, support), labels), optimizer, steps)
    with torch.no_grad():
        return heads.scores(support, query)


@register(TUNERS, bare=False)
class FeatureTuner(EpisodeTuner):
    """Fits a head to frozen features of the support; see the head of this file.

    Args:
        head: ``'linear'``, or ``'prototype'``, which learns nothing.
        hub: A hub whose LoRAs are averaged into one that the features are computed with; None takes the model as it is.
        merge: How they are averaged, a name in :data:`mmlora.adapters.MERGES`.
        steps: Steps of the optimizer.
        optimizer: Config of the optimizer.
        together: Episodes that are learned at once.

    Raises:
        ValueError: A name is unknown, a number is out of range, or the optimizer mixes episodes.
    """

    def __init__(
        self,
        head: str = 'linear',
        hub: str | os.PathLike | None = None,
        merge: str = 'change',
        steps: int = 50,
        optimizer: Mapping[str, Any] = SGD,
        together: int = 100,
    ) -> None:
        super().__init__(together)
        usable = [name for name, method in MERGES.items() if not method.sparse]
        if merge not in usable:
            raise ValueError(f'merge={merge!r} is unknown; choose from {", ".join(usable)}')
        self.head, self.optimizer = check_head(head), check_optimizer(optimizer)
        self.hub, self.merge, self.steps = hub, merge, whole('steps', steps, 0)
        self._features: Tensor

    def start(self, images: TestImages) -> None:
        """Encode all images."""
        adapters = nullcontext()
        if self.hub is not None:
            _, members = read_hub(self.hub, images.model)
            adapters = with_adapters(images.backbone, [merge_lora(members, self.merge)])
            images.tell(f'{len(members)} LoRAs of {self.hub} are averaged: {self.merge}')
        with adapters:
            self._features = images.encode()

    def scores(self, episodes: Sequence[NumberedEpisode], images: Tensor | None = None) -> Tensor:
        """See :class:`EpisodeTuner`."""
        support, query = gather(self._features, episodes)
        return fit_and_score(self.head, episodes, support, query, self.optimizer, self.steps)


def gather(features: Tensor, episodes: Sequence[NumberedEpisode]) -> tuple[Tensor, Tensor]:
    """Return the features of the support ``(E, n_way * n_shot, ...)`` and of the queries, class by class."""
    support, query = (
        torch.stack([torch.as_tensor(getattr(e.episode, part).ravel()) for e in episodes]).to(features.device)
        for part in ('support', 'query')
    )
    return features[support], features[query]
