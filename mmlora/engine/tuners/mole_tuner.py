"""MOLE: a gate over the LoRAs of a hub, tuned on the support.

Mixture of LoRA Experts (Wu et al., ICLR 2024, arXiv 2404.13628), with one gate for the whole network, the coarsest of
the four placements that the paper compares: the experts are the features z_m(x) of the M members, and::

    gate(x) = softmax(e^T [z_1/|z_1|, ..., z_M/|z_M|] / t)  in R^M        z(x) = sum_m gate_m(x) z_m(x)

The matrix e, the temperature t and the head learn. With one gate at the end, each image is encoded by each member once,
and all episodes learn from these features; gates in each layer would need a pass through the network for each step.

Deviations: e begins at 0, so that the gate begins with the average; the loss of balance is the mean, not the sum, of
``-log`` of the mean gates of the members, so that its factor does not depend on M.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ...adapters import route
from ...registry import TUNERS, register
from .feature_tuner import SGD, gather
from .heads import HEADS, check_head, check_optimizer, episode_loss, fit
from .hub_factors import read_hub, with_adapters
from .test_images import TestImages
from .tuner import EpisodeTuner, NumberedEpisode, support_labels, whole


class Gates:
    """The gates of E episodes over M experts of width D.

    Args:
        experts: ``(E, S, M, D)``, whose sizes, device and type are taken.
    """

    def __init__(self, experts: Tensor) -> None:
        count, _, members, width = experts.shape
        self.matrix = nn.Parameter(experts.new_zeros(count, members * width, members))
        self.temperature = nn.Parameter(experts.new_ones(count))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [self.matrix, self.temperature]

    def weights(self, experts: Tensor) -> Tensor:
        """Return ``(E, S, M)``, which sum to 1, for experts ``(E, S, M, D)``."""
        logits = torch.bmm(F.normalize(experts, dim=-1).flatten(2), self.matrix)
        return (logits / self.temperature[:, None, None]).softmax(-1)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Return the features ``(E, S, D)`` of gates ``(E, S, M)`` over experts ``(E, S, M, D)``."""
    return torch.einsum('esm,esmd->esd', weights, experts)


def balance_loss(weights: Tensor) -> Tensor:
    """Return ``sum_e mean_m -log mean_s weights``, least where all members of an episode are used alike."""
    return -weights.mean(1).clamp_min(1e-12).log().mean(-1).sum()


@register(TUNERS, bare=False)
class MOLETuner(EpisodeTuner):
    """Fits a gate over the LoRAs of a hub, and a head, to the support; see the head of this file.

    The features of all members take ``images * M * D`` numbers on the device of the model.

    Args:
        hub: The hub.
        head: ``'linear'`` or ``'prototype'``.
        members: Names or places of the members; None takes all.
        balance: Factor of the loss of balance.
        steps: Steps of the optimizer.
        optimizer: Config of the optimizer.
        together: Episodes that are learned at once.

    Raises:
        ValueError: A number is out of range, or a name is unknown.
    """

    def __init__(
        self,
        hub: str | os.PathLike,
        head: str = 'linear',
        members: Sequence[int | str] | None = None,
        balance: float = 0.5,
        steps: int = 50,
        optimizer: Mapping[str, Any] = SGD,
        together: int = 10,
    ) -> None:
        super().__init__(together)
        if not 0 <= balance < math.inf:
            raise ValueError(f'balance must be at least 0 and finite, got {balance!r}')
        self.hub, self.head, self.members, self.balance = hub, check_head(head), members, float(balance)
        self.steps, self.optimizer = whole('steps', steps, 0), check_optimizer(optimizer)
        self._experts: Tensor

    def start(self, images: TestImages) -> None:
        """Encode all images by each member."""
        names, adapters = read_hub(self.hub, images.model, self.members)
        images.tell(f'{len(images)} images are encoded by {len(names)} LoRAs of {self.hub}')

        def features(inputs: Tensor) -> Tensor:
            found = []
            for place in range(len(adapters)):
                with route(images.backbone, place):
                    found.append(images.features(inputs))
            return torch.stack(found, 1)

        with with_adapters(images.backbone, adapters):
            self._experts = images.encode(features)  # (N, M, D)

    def scores(self, episodes: Sequence[NumberedEpisode], images: Tensor | None = None) -> Tensor:
        """See :class:`EpisodeTuner`."""
        (support, query), labels = gather(self._experts, episodes), support_labels(episodes[0].episode)
        gates, heads = Gates(support), HEADS[self.head](episodes, support.shape[-1], support)

        def loss() -> Tensor:
            weights = gates.weights(support)
            known = mix(weights, support)
            return episode_loss(heads.scores(known, known), labels) + self.balance * balance_loss(weights)

        fit([*gates.parameters, *heads.parameters], loss, self.optimizer, self.steps)
        with torch.no_grad():
            known, asked = (mix(gates.weights(part), part) for part in (support, query))
            return heads.scores(known, asked)
