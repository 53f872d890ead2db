"""Heads of many episodes at once, and fitting them: linear layers ``(E, n_way, D)``, or class means.

Episodes do not touch each other: the loss is the sum of their means, and only optimizers that treat each element by
itself are taken, so that an episode learns what it would learn alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import OPTIMIZERS
from torch import Tensor

from .tuner import NumberedEpisode

ELEMENTWISE = ('SGD', 'Adam', 'AdamW', 'NAdam', 'RAdam', 'Adamax', 'Adagrad', 'Adadelta', 'RMSprop')
"""Optimizers whose step of an element depends on nothing but the gradients of that element."""


class LinearHeads:
    """A linear layer for each of E episodes, as fresh as torch's own: uniform in ``+-1/sqrt(D)``.

    Args:
        episodes: Whose seeds the layers follow from.
        width: D.
        like: Gives device and type.
    """

    def __init__(self, episodes: Sequence[NumberedEpisode], width: int, like: Tensor) -> None:
        n_way, bound = len(episodes[0].episode.classes), width**-0.5
        values = torch.empty(len(episodes), n_way, width + 1, dtype=torch.float64)
        for own, episode in zip(values, episodes, strict=True):
            own.uniform_(-bound, bound, generator=episode.generator('head'))
        values = values.to(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        self.weight = nn.Parameter(values[..., :-1].contiguous())  # (E, n_way, D)
        self.bias = nn.Parameter(values[..., -1].contiguous())  # (E, n_way)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [self.weight, self.bias]

    def scores(self, support: Tensor, features: Tensor) -> Tensor:
        """Return ``(E, Q, n_way)`` for features ``(E, Q, D)``; the support is not looked at."""
        return torch.baddbmm(self.bias[:, None], features, self.weight.transpose(1, 2))


class PrototypeHeads:
    """Class means of the support, and the negative squared distance to them; nothing learns.

    Args:
        episodes: Of one size.
        width: D.
        like: Gives device and type.
    """

    def __init__(self, episodes: Sequence[NumberedEpisode], width: int, like: Tensor) -> None:
        self.n_way = len(episodes[0].episode.classes)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns: nothing."""
        return []

    def scores(self, support: Tensor, features: Tensor) -> Tensor:
        """Return ``(E, Q, n_way)`` for support ``(E, n_way * n_shot, D)`` and features ``(E, Q, D)``."""
        prototypes = support.unflatten(1, (self.n_way, -1)).mean(2)  # (E, n_way, D)
        return -(features[:, :, None] - prototypes[:, None]).square().sum(-1)


HEADS: Mapping[str, Callable[[Sequence[NumberedEpisode], int, Tensor], LinearHeads | PrototypeHeads]] = {
    'linear': LinearHeads,
    'prototype': PrototypeHeads,
}


def check_head(head: str) -> str:
    """Return the name of a head.

    Raises:
        ValueError: There is no such head.
    """
    if head not in HEADS:
        raise ValueError(f'head={head!r} is unknown; choose from {", ".join(HEADS)}')
    return head


def check_optimizer(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of an optimizer.

    Raises:
        ValueError: It mixes elements, so that episodes would disturb each other.
    """
    if optimizer.get('type') not in ELEMENTWISE:
        raise ValueError(f'optimizer={dict(optimizer)} would mix episodes that are learned together; choose its type '
                         f'from {", ".join(ELEMENTWISE)}')
    OPTIMIZERS.build({**optimizer, 'params': [nn.Parameter(torch.zeros(1))]})  # It raises where a number is wrong.
    return dict(optimizer)


def fit(parameters: Sequence[Tensor], loss: Callable[[], Tensor], optimizer: Mapping[str, Any], steps: int) -> None:
    """Lower a loss by so many steps.

    Args:
        parameters: What learns.
        loss: Computes the loss anew, a number.
        optimizer: Config of an optimizer.
        steps: How many.
    """
    stepper = OPTIMIZERS.build({**optimizer, 'params': list(parameters)})
    with torch.enable_grad():
        for _ in range(steps):
            stepper.zero_grad()
            loss().backward()
            stepper.step()
    stepper.zero_grad()  # The gradients of parameters that outlive the episode would stay in memory.


def episode_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over episodes of the mean cross entropy.

    Args:
        scores: ``(E, S, n_way)``.
        labels: int64 ``(S,)``, the same in each episode.
    """
    return F.cross_entropy(scores.transpose(1, 2), labels.to(scores.device).expand(len(scores), -1),
                           reduction='none').mean(1).sum()
