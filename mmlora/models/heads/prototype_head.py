"""A head without parameters: queries are compared with the mean of the support features of each class.

Prototypical networks (Snell et al., NeurIPS 2017, arXiv 1703.05175), as LoRA-Recycle (Hu et al., CVPR 2025, eqs. 3 and
4) meta-trains with::

    p_c = mean of f(x) over the support of c        scores(x)_c = -||f(x) - p_c||^2
    CE(scores(x), y)      or, with a teacher,      KL(softmax(teacher(x)) || softmax(scores(x)))

Eq. 3b of the paper has the distance without the square, its published code and prototypical networks have it squared,
which is the default here; ``distance='euclidean'`` is the other.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from ...registry import MODELS, register


class Distance(NamedTuple):
    """How a query is compared with prototypes.

    Attributes:
        prepare: Changes features ``(..., D)`` before they are averaged or compared.
        score: Gives scores ``(Q, n_way)``, larger for the nearer, of queries ``(Q, D)`` and prototypes ``(n_way, D)``.
        linear: Gives weight ``(n_way, D)`` and bias ``(n_way,)`` of the linear layer over features as they are that
            puts the classes in the same order, of prototypes ``(n_way, D)``.
    """

    prepare: Callable[[Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    linear: Callable[[Tensor], tuple[Tensor, Tensor]]


def _same(features: Tensor) -> Tensor:
    return features


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features, dim=-1)


def _squared(query: Tensor, prototypes: Tensor) -> Tensor:
    return -(query[:, None] - prototypes).square().sum(-1)


def _plain(query: Tensor, prototypes: Tensor) -> Tensor:
    return -torch.linalg.vector_norm(query[:, None] - prototypes, dim=-1)


def _cosine(query: Tensor, prototypes: Tensor) -> Tensor:
    return query @ _unit(prototypes).T


def _linear_of_squares(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * prototypes, -prototypes.square().sum(-1)  # -||x - p||^2 without ||x||^2, which all classes share.


def _linear_of_angles(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    return _unit(prototypes), prototypes.new_zeros(len(prototypes))  # The cosine times ||x||.


DISTANCES = MappingProxyType({
    'squared_euclidean': Distance(_same, _squared, _linear_of_squares),
    'euclidean': Distance(_same, _plain, _linear_of_squares),
    'cosine': Distance(_unit, _cosine, _linear_of_angles),
})


def class_means(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the mean feature of each class.

    Args:
        features: ``(S, D)``.
        labels: int64 ``(S,)`` in 0..n_way-1; each occurs.
        n_way: Number of classes.

    Returns:
        ``(n_way, D)``.
    """
    member = F.one_hot(labels, n_way).to(features.dtype)  # (S, n_way)
    return member.T @ features / member.sum(0)[:, None]


def prototype_scores(
    support: Tensor, labels: Tensor, query: Tensor, n_way: int, distance: str = 'squared_euclidean'
) -> Tensor:
    """Score queries by their nearness to the prototypes.

    Args:
        support: ``(S, D)``.
        labels: int64 ``(S,)``, the classes of the support.
        query: ``(Q, D)``.
        n_way: Number of classes.
        distance: A name in :data:`DISTANCES`.

    Returns:
        ``(Q, n_way)``, larger for the nearer.
    """
    prepare, score, _ = DISTANCES[distance]
    return score(prepare(query), class_means(prepare(support), labels, n_way))


@register(MODELS)
class PrototypeHead(BaseModule):
    """Compares queries with the class means of the support; see the head of this file.

    Args:
        distance: ``'squared_euclidean'``, ``'euclidean'`` or ``'cosine'``. With the last, features get length 1 before
            they are averaged and before they are compared.
        temperature: Scores are divided by it before the softmax.

    Raises:
        ValueError: The distance is unknown, or the temperature is not positive.
    """

    def __init__(self, distance: str = 'squared_euclidean', temperature: float = 1.0) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f'distance={distance!r} is unknown; choose from {", ".join(DISTANCES)}')
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not temperature > 0:
            raise ValueError(f'temperature must be a positive number, got {temperature!r}')
        self.distance, self.temperature = distance, float(temperature)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the last feature, ``(B, D)``: without a support there is nothing to compare with."""
        return feats[-1]

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Return ``(Q, n_way)``, float32 at least, for features ``(S, D)``, labels ``(S,)`` and queries ``(Q, D)``."""
        n_way = int(labels.max()) + 1
        with torch.autocast(support.device.type, enabled=False):  # Differences of large squares need their digits.
            halves = (torch.float16, torch.bfloat16)
            support, query = (part.float() if part.dtype in halves else part for part in (support, query))
            return prototype_scores(support, labels, query, n_way, self.distance) / self.temperature

    def linear(self, support: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a linear head over features whose largest output is the class of this head.

        Args:
            support: ``(S, D)``.
            labels: int64 ``(S,)`` in 0..n_way-1; each occurs.

        Returns:
            ``(n_way, D)`` and ``(n_way,)``.
        """
        distance = DISTANCES[self.distance]
        weight, bias = distance.linear(class_means(distance.prepare(support), labels, int(labels.max()) + 1))
        return weight / self.temperature, bias / self.temperature

    def episode_loss(self, scores: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Return the loss of an episode, the mean over its queries.

        Args:
            scores: ``(Q, n_way)``.
            labels: int64 ``(Q,)``.
            teacher: Logits ``(Q, n_way)``. With them the loss is the divergence of the prediction from the teacher's,
                and labels do not count.
        """
        if teacher is None:
            return F.cross_entropy(scores, labels)
        wanted = teacher.to(scores.dtype).log_softmax(-1)
        return F.kl_div(scores.log_softmax(-1), wanted, reduction='batchmean', log_target=True)
