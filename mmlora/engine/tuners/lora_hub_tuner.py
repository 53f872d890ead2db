"""LoRAHub (Huang et al., COLM 2024, arXiv 2307.13269) for few images: LoRAs of a hub, weighted to suit the support.

A random subset of members is combined as ``(sum w_m s_m B_m) (sum w_m A_m)``, and w is found without gradients, from
0, within bounds, with a penalty ``l1 * mean |w_m|``, as published: 20 members, at most 40
evaluations, bounds +-1.5, l1 = 0.05.

Deviations: the search is scipy's COBYLA (the published one is of the package nevergrad), and the best
weights that were seen are taken, not the last ones. LoRAHub is for language models, which need no head; how
LoRA-Recycle (CVPR 2025) tunes w together with one is not published. Here a linear head is fitted at w = 0, w is
searched with that head, and the head is fitted anew. With prototypes the class means follow w. Prototypes of one image
classify this image too well to tell weights apart, so the loss is that of ``views`` changed copies of the support.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...adapters import put_adapter
from ...registry import TUNERS, register
from .feature_tuner import SGD
from .heads import HEADS, check_head, check_optimizer, episode_loss, fit
from .hub_factors import StackedLoRAs, read_hub, with_adapters
from .test_images import TestImages
from .tuner import EpisodeTuner, NumberedEpisode, support_labels, whole
from .views import draw_views


@register(TUNERS, bare=False)
class LoRAHubTuner(EpisodeTuner):
    """Combines LoRAs of a hub by weights that suit the support; see the head of this file.

    Args:
        hub: The hub.
        head: ``'prototype'`` or ``'linear'``.
        members: LoRAs of an episode, drawn at random; all where the hub has no more.
        evaluations: Largest number of evaluations of the loss; the search takes at least two more than members.
        l1: Factor of the penalty.
        bound: Largest size of a weight.
        views: Changed copies of each support image whose loss counts; 0 takes the support itself.
        steps: Steps of the optimizer of a linear head.
        optimizer: Config of the optimizer of a linear head.

    Raises:
        ValueError: A number is out of range, or a name is unknown.
    """

    needs_images = True

    def __init__(
        self,
        hub: str | os.PathLike,
        head: str = 'prototype',
        members: int = 20,
        evaluations: int = 40,
        l1: float = 0.05,
        bound: float = 1.5,
        views: int = 1,
        steps: int = 50,
        optimizer: Mapping[str, Any] = SGD,
    ) -> None:
        super().__init__(together=1)
        if not 0 < bound < math.inf or not 0 <= l1 < math.inf:
            raise ValueError('bound must be positive and l1 at least 0, both finite, got '
                             f'bound={bound!r} and l1={l1!r}')
        self.hub, self.head, self.optimizer = hub, check_head(head), check_optimizer(optimizer)
        self.members, self.evaluations = whole('members', members, 1), whole('evaluations', evaluations, 1)
        self.l1, self.bound, self.views = float(l1), float(bound), whole('views', views, 0)
        self.steps = whole('steps', steps, 0)
        self._images: TestImages
        self._loras: StackedLoRAs

    def start(self, images: TestImages) -> None:
        """Read the hub, and give the backbone one adapter, which takes the combinations."""
        self._images = images
        _, adapters = read_hub(self.hub, images.model)
        self._loras = StackedLoRAs(adapters, next(images.backbone.parameters()))
        nothing = self._loras.combine(torch.zeros(len(adapters)))
        self._undo.enter_context(with_adapters(images.backbone, [nothing]))

    @torch.no_grad()
    def scores(self, episodes: Sequence[NumberedEpisode], images: Tensor) -> Tensor:
        """See :class:`EpisodeTuner`."""
        (one,), labels = episodes, support_labels(episodes[0].episode)
        support, query = images[0, : len(labels)], images[0, len(labels) :]
        chosen = self._loras.draw_members(self.members, one.generator('members'))
        asked = draw_views(support, self.views, one.generator('views')) if self.views else support[:0]
        both, targets = torch.cat([support, asked]), labels.repeat(max(self.views, 1))

        def features(weights: np.ndarray, inputs: Tensor) -> Tensor:
            spread = torch.zeros(len(self._loras), dtype=torch.float64)
            spread[chosen] = torch.as_tensor(weights)
            put_adapter(self._images.backbone, 0, self._loras.combine(spread))
            return self._images.features(inputs)[None]

        known = features(np.zeros(len(chosen)), support)
        heads = HEADS[self.head](episodes, known.shape[-1], known)
        self._fit(heads, known, labels)

        def loss(weights: np.ndarray) -> float:
            found = features(weights, both)
            known, seen = found[:, : len(labels)], found[:, len(labels) :] if self.views else found
            return float(episode_loss(heads.scores(known, seen), targets)) + self.l1 * float(np.abs(weights).mean())

        best = search(loss, len(chosen), self.bound, self.evaluations)
        known = features(best, support)
        heads = HEADS[self.head](episodes, known.shape[-1], known)
        self._fit(heads, known, labels)
        return heads.scores(known, features(best, query))

    def _fit(self, heads: Any, known: Tensor, labels: Tensor) -> None:
        if heads.parameters:
            fit(heads.parameters, lambda: episode_loss(heads.scores(known, known), labels), self.optimizer, self.steps)


def search(loss: Callable[[np.ndarray], float], size: int, bound: float, evaluations: int) -> np.ndarray:
    """Return the best weights that a search without gradients has seen.

    Args:
        loss: Takes weights ``(size,)``.
        size: Number of weights; the search begins at 0.
        bound: Largest size of a weight.
        evaluations: Largest number of evaluations, but ``size + 2`` at least, which the search cannot do without.

    Returns:
        ``(size,)`` float64 within the bounds.
    """
    from scipy.optimize import minimize  # its import is slow, and few processes search

    best, lowest = np.zeros(size), np.inf

    def seen(weights: np.ndarray) -> float:
        nonlocal best, lowest
        inside = np.clip(weights, -bound, bound)
        value = loss(inside)
        if value < lowest:
            best, lowest = inside.copy(), value
        return value

    # It tries each weight alone, then goes on by a linear model of all that it has seen.
    minimize(seen, best, method='COBYLA', bounds=[(-bound, bound)] * size,
             options=dict(rhobeg=bound / 2, maxiter=max(evaluations, size + 2)))
    return best
