"""A support set: a few labelled images that say what a task is, and how well features tell its classes apart."""

import torch
from torch import Tensor

from ..heads.prototype_head import DISTANCES


def check_support(labels: Tensor, where: str = 'the support set') -> int:
    """Check that there are images of at least two classes, and return the number of classes.

    Args:
        labels: int64 ``(S,)``; the classes are 0..n_way-1, and each occurs.
        where: What messages call it.

    Raises:
        ValueError: There is no image, one class only, or a class between has none.
    """
    if not labels.numel():
        raise ValueError(f'{where} is empty: give at least one image of each of at least two classes')
    classes = labels.unique().tolist()
    if len(classes) < 2:
        raise ValueError(f'{where} has {labels.numel()} images of one class only: what tells classes apart is seen '
                         'from images of at least two')
    if classes != list(range(len(classes))):
        raise ValueError(f'{where} has the labels {classes}: number its classes from 0, without gaps')
    return len(classes)


def support_scores(features: Tensor, labels: Tensor, distance: str = 'squared_euclidean') -> Tensor:
    """Compare each support image with the class means of the others, ``(S, n_way)``.

    An image that is the only one of its class is part of its mean; then only the distances to the other classes count.

    Args:
        features: ``(S, D)``.
        labels: int64 ``(S,)`` in 0..n_way-1.
        distance: A name in :data:`~mmlora.models.heads.prototype_head.DISTANCES`.
    """
    n_way = check_support(labels)
    prepare, score, _ = DISTANCES[distance]
    features = prepare(features)
    member = torch.nn.functional.one_hot(labels, n_way).to(features.dtype)  # (S, n_way)
    count, total = member.sum(0), member.T @ features
    without = (member * (count > 1)).unsqueeze(-1)  # (S, n_way, 1): where the image itself is left out
    means = (total - without * features[:, None]) / (count[:, None] - without)  # (S, n_way, D)
    return torch.stack([score(one[None], own)[0] for one, own in zip(features, means, strict=True)])


def support_loss(
    features: Tensor, labels: Tensor, distance: str = 'squared_euclidean', temperature: float = 1.0
) -> Tensor:
    """Return the cross entropy of the support images, each left out of its own class mean.

    Args:
        features: ``(S, D)``.
        labels: int64 ``(S,)``.
        distance: As for :func:`support_scores`.
        temperature: Scores are divided by it.

    Raises:
        ValueError: The support is empty or of one class.
    """
    return torch.nn.functional.cross_entropy(support_scores(features, labels, distance) / temperature, labels)
