"""What the classes of a task are told apart with while its LoRA learns.

A linear head learns along. Prototypes do not: each image of a batch is compared with the means of the others of the
batch by class (prototypical networks, Snell et al., NeurIPS 2017, arXiv 1703.05175, each image left out once), so that
the LoRA learns features for an episode and none for a head. Either ends as a linear head: nearness to prototypes p is
one, since ``-||x - p||^2 = 2 p x - ||p||^2 - ||x||^2``, where the last term is the same for all classes.

Deviation from prototypical networks: distances are divided by the square root of the width of the features. Those of a
pre-trained backbone are hundreds apart; the softmax would be certain of every image, and nothing would be learned.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..io.lora_folder import Head
from ..models.heads.prototype_head import class_means


class TaskHead(Protocol):
    """The head of one task."""

    needs_support: bool
    """Whether :meth:`ended` looks at the features of the images to learn from."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return what learns along."""

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features ``(B, D)`` with the outputs ``(B,)``."""

    def ended(self, features: Tensor | None, labels: Tensor) -> Head:
        """Return the head for features ``(S, D)`` of the images to learn from, with the outputs ``(S,)``."""


class LinearTaskHead(nn.Linear):
    """A linear layer with torch's own start, drawn on the CPU.

    Args:
        width: Of the features.
        n_way: Number of classes.
        like: Gives device and type, which is float32 at least.
        generator: Draws.
    """

    needs_support = False

    def __init__(self, width: int, n_way: int, like: Tensor, generator: torch.Generator) -> None:
        super().__init__(width, n_way, device='meta')
        bound = width**-0.5
        for name, shape in (('weight', (n_way, width)), ('bias', (n_way,))):
            value = torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)
            dtype = torch.promote_types(like.dtype, torch.float32)
            setattr(self, name, nn.Parameter(value.to(device=like.device, dtype=dtype)))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(self(features.to(self.weight.dtype)), labels)

    def ended(self, features: Tensor | None, labels: Tensor) -> Head:
        """Return a copy of what was learned."""
        return Head(self.weight.detach().clone(), self.bias.detach().clone())


class PrototypeTaskHead:
    """The means of the features of each class. Arguments are as for :class:`LinearTaskHead`; nothing is drawn."""

    needs_support = True

    def __init__(self, width: int, n_way: int, like: Tensor, generator: torch.Generator) -> None:
        self.n_way, self.dtype = n_way, torch.promote_types(like.dtype, torch.float32)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return nothing: no parameter learns along."""
        return ()

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of :func:`left_out_scores`, over the images with another one of their class."""
        scores = left_out_scores(features.to(self.dtype), labels, self.n_way)
        paired = scores.gather(1, labels[:, None])[:, 0].isfinite()
        # A last, small batch may hold no two images of a class; it then adds a zero that has gradients.
        return F.cross_entropy(scores[paired], labels[paired]) if paired.any() else 0 * features.sum()

    def ended(self, features: Tensor, labels: Tensor) -> Head:
        """Return nearness to the prototypes of all images as a linear head."""
        prototypes = class_means(features.to(self.dtype), labels, self.n_way)
        scale = prototypes.shape[1] ** 0.5
        return Head(2 * prototypes / scale, -prototypes.square().sum(1) / scale)


HEADS: dict[str, Callable[[int, int, Tensor, torch.Generator], TaskHead]] = {
    'linear': LinearTaskHead, 'prototype': PrototypeTaskHead,
}  # fmt: skip
"""Name in a config -> head of a task."""


def left_out_scores(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the nearness of each feature to the means of the others by class, ``(B, n_way)``.

    Args:
        features: ``(B, D)``.
        labels: int64 ``(B,)`` in 0..n_way-1.
        n_way: Number of classes.

    Returns:
        Negative squared distances by sqrt(D); ``-inf`` where a class has no other feature.
    """
    member = F.one_hot(labels, n_way).to(features.dtype)  # (B, n_way)
    counts = member.sum(0) - member  # (B, n_way): features of each class but oneself
    sums = (member.T @ features)[None] - member[:, :, None] * features[:, None]  # (B, n_way, D)
    distances = (features[:, None] - sums / counts.clamp_min(1)[..., None]).square().sum(-1)
    return (-distances / features.shape[1] ** 0.5).masked_fill(counts == 0, float('-inf'))
