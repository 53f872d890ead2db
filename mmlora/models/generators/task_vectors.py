"""Task vectors: what a few labelled images say of a task, seen by the frozen backbone without any LoRA.

ICM-LoRA (IJCAI 2025, arXiv 2501.17635) averages hidden states of a model that has been fine-tuned on the task, which a
new task has not. Here the frozen backbone looks at the images, so that a LoRA can be generated for a task that nobody
has trained. All vectors stay the same where images or classes come in another order. Nothing is normalised here:
generators standardise over the bank.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn as nn
from torch import Tensor

from ...registry import MODELS, register
from ..heads.prototype_head import PrototypeHead, class_means
from .codec import LoRACodec
from .functional import FrozenFeatures
from .sizes import check_sizes
from .support import check_support, support_loss


class TaskEncoder(nn.Module, ABC):
    """From a support set to a condition, in two steps.

    :meth:`describe` is frozen and done once for a support set; its result is standardised over the bank. The module
    itself, which may learn with the generator, makes the condition ``(B, C)`` of it.
    """

    @abstractmethod
    def describe(self, frozen: FrozenFeatures, codec: LoRACodec | None, images: Tensor, labels: Tensor) -> Tensor:
        """Return the description of a support set.

        Args:
            frozen: Gives features.
            codec: Of the LoRAs; None where there is none, which not every encoder can do.
            images: Prepared, ``(S, C, H, W)``.
            labels: int64 ``(S,)`` in 0..n_way-1.

        Raises:
            ValueError: The support is empty or of one class.
        """

    def condition_dim(self, width: int) -> int:
        """Return C for descriptions whose last axis is so wide."""
        return width

    def forward(self, descriptions: Tensor) -> Tensor:
        """Return conditions ``(B, C)``."""
        return descriptions


@register(MODELS)
class MeanFeature(TaskEncoder):
    """The mean feature of all images, ``(D,)``: the nearest to the published vector."""

    @torch.no_grad()
    def describe(self, frozen: FrozenFeatures, codec: LoRACodec | None, images: Tensor, labels: Tensor) -> Tensor:
        """Return ``(D,)``; see the base class."""
        check_support(labels)
        return frozen(images).mean(0)


@register(MODELS)
class PrototypeStats(TaskEncoder):
    """Mean and deviation of the class means, and the mean deviation within classes, ``(3 D,)``.

    The last is zero where each class has one image.
    """

    @torch.no_grad()
    def describe(self, frozen: FrozenFeatures, codec: LoRACodec | None, images: Tensor, labels: Tensor) -> Tensor:
        """Return ``(3 D,)``; see the base class."""
        n_way, features = check_support(labels), frozen(images)
        means = class_means(features, labels, n_way)
        within = class_means((features - means[labels]).square(), labels, n_way).sqrt()
        return torch.cat([means.mean(0), means.std(0, correction=0), within.mean(0)])


@register(MODELS)
class SetEncoder(TaskEncoder):
    """A learned function of the set (Deep Sets, Zaheer et al., NeurIPS 2017): ``rho(mean of phi(f_i, p_{y_i}))``.

    Each image is seen beside the mean of its class; it learns with the generator. All support sets of a bank need
    equally many images.

    Args:
        feature_dim: D, width of the features of the backbone.
        out_dim: C.
        hidden_dim: Width between.

    Raises:
        ValueError: A width is no whole number of at least 1.
    """

    def __init__(self, feature_dim: int, out_dim: int = 64, hidden_dim: int = 128) -> None:
        super().__init__()
        check_sizes(feature_dim=feature_dim, out_dim=out_dim, hidden_dim=hidden_dim)
        self.phi = nn.Sequential(nn.Linear(2 * feature_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim))
        self.rho = nn.Sequential(nn.GELU(), nn.Linear(hidden_dim, out_dim))
        self.width = 2 * feature_dim

    @torch.no_grad()
    def describe(self, frozen: FrozenFeatures, codec: LoRACodec | None, images: Tensor, labels: Tensor) -> Tensor:
        """Return each feature beside the mean of its class, ``(S, 2 D)``; see the base class."""
        n_way, features = check_support(labels), frozen(images)
        return torch.cat([features, class_means(features, labels, n_way)[labels]], dim=1)

    def condition_dim(self, width: int) -> int:
        """Return C.

        Raises:
            ValueError: The features have another width.
        """
        if width != self.width:
            raise ValueError(f'SetEncoder is built for feature_dim={self.width // 2}, the features have {width // 2}')
        return self.rho[-1].out_features

    def forward(self, descriptions: Tensor) -> Tensor:
        """Return ``(B, C)`` of descriptions ``(B, S, 2 D)``."""
        return self.rho(self.phi(descriptions).mean(1))


@register(MODELS)
class SupportGradient(TaskEncoder):
    """The gradient of the support loss with respect to B where B is zero: where the first step of training would go.

    One forward and one backward pass; see :func:`mmlora.models.generators.support.support_loss`. It needs an A that all
    LoRAs share (``factors='B'``).

    Args:
        distance: Of the class means, as in ``PrototypeHead``.
        temperature: Scores are divided by it.

    Raises:
        ValueError: The distance is unknown, or the temperature is not positive.
    """

    def __init__(self, distance: str = 'squared_euclidean', temperature: float = 1.0) -> None:
        super().__init__()
        head = PrototypeHead(distance, temperature)
        self.distance, self.temperature = head.distance, head.temperature

    def describe(self, frozen: FrozenFeatures, codec: LoRACodec | None, images: Tensor, labels: Tensor) -> Tensor:
        """Return ``(L,)``; see the base class.

        Raises:
            ValueError: There is no shared A.
        """
        if codec is None or codec.factors != 'B':
            raise ValueError("SupportGradient needs the A that all LoRAs share: banks made with factors='B'")
        check_support(labels)
        with torch.enable_grad():
            zero = codec.shared.new_zeros(1, codec.spec.length, requires_grad=True)
            features = frozen(images, codec.full_spec, codec.tensors(zero))
            (gradient,) = torch.autograd.grad(
                support_loss(features, labels, self.distance, self.temperature), zero)
        return gradient[0]


@register(MODELS)
class DecoderStates(TaskEncoder):
    """The vectors of ICM-LoRA itself: mean states of the decoder of a tuned Florence-2, ``(D,)``, from a file.

    ``tools/florence.py task-vector`` makes them and ``tools/import_lora_bank.py`` takes over published ones. No frozen
    backbone can, so that a LoRA is generated from a file of them, and not from a support set.
    """

    def describe(self, frozen: FrozenFeatures, codec: LoRACodec | None, images: Tensor, labels: Tensor) -> Tensor:
        """Refuse: only a tuned model has such states.

        Raises:
            ValueError: Always.
        """
        raise ValueError('DecoderStates are those of a tuned Florence-2, which a support set does not bring: write '
                         'them with tools/florence.py task-vector, and generate with --task-vectors FILE --task NAME')
