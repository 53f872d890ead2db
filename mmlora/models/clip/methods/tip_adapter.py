"""Tip-Adapter: few-shot images as a cache beside zero-shot CLIP.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022, arXiv 2111.03930.
With image features f and text features W of length 1, keys K (the features of the N few-shot images) and values V
(their labels, one-hot), equations 4 to 6: ``logits = 100 f W^T + alpha exp(-beta (1 - f K^T)) V``. Tip-Adapter learns
nothing; in Tip-Adapter-F the keys learn.

A key is the mean feature of several random views of its image (10, as published), brought to length 1. Learned keys
are not brought back to it, as published.

Deviations from the published code: logits are in float32; alpha and beta are searched on validation data alone, if at
all, see :class:`mmlora.engine.TipAdapterSearchHook`, and begin as 1 and 5.5 for all data sets; no epoch is chosen by
the test data; an image may have several labels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
from mmpretrain.structures import DataSample
from torch import Tensor

from ....adapters import freeze
from ....registry import MODELS, register
from ..classifier import LoRACLIPClassifier
from ..logits import normalize, wide
from .arguments import check_no_lora, refuse_merging
from .known_classes import KnownClasses, check_class_count
from .trained_rows import rows_of_trained


def cache_logits(images: Tensor, keys: Tensor, values: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """Return ``alpha * exp(-beta (1 - f K^T)) V`` with f of length 1.

    Args:
        images: Features ``(B, D)``.
        keys: K, ``(N, D)``.
        values: V, ``(N, C)``, 0 and 1.
        alpha: Weight of the cache.
        beta: Sharpness: how fast the weight of a key falls with its distance.

    Returns:
        ``(B, C)``, at least in float32.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = normalize(images)
        affinity = (-beta * (1 - images @ keys.T.to(images.dtype))).exp()
        return alpha * affinity @ values.to(images.dtype)


class ImageCache(nn.Module):
    """Keys, values, their weight and sharpness, and whose labels the values are.

    Args:
        size: Number of images.
        classes: Number of classes.
        width: Width of the features.
        alpha: Weight of the cache.
        beta: Sharpness.
    """

    def __init__(self, size: int, classes: int, width: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(size, width))
        self.register_buffer('values', torch.zeros(size, classes, dtype=torch.bool))
        self.register_buffer('alpha', torch.tensor(float(alpha)))
        self.register_buffer('beta', torch.tensor(float(beta)))
        self.known = KnownClasses(classes)

    @property
    def empty(self) -> bool:
        """Whether no image is in it yet."""
        return not bool(self.values.any())


@register(MODELS, 'Tip-Adapter')
class TipAdapter(LoRACLIPClassifier):
    """Zero-shot CLIP with a cache of few-shot images; with ``finetune`` its keys learn (Tip-Adapter-F).

    The cache is ``head.cache``. A run fills it before its first step; it travels in the checkpoint, alpha and beta too.
    With ``finetune`` ``images * embed_dim`` numbers learn, else none, and the loop is ``TrainingFreeLoop``. The cache
    is for the classes that it was filled with: any of them in any order, and no others.

    Args:
        finetune: Whether the keys learn.
        alpha: Weight of the cache, at least 0.
        beta: Sharpness, above 0.
        num_views: Number of random views of an image whose mean is its key.
        num_classes: Number of classes. :func:`mmlora.apis.train` takes it from the data.
        cache_size: Number of few-shot images; likewise.
        **kwargs: Of :class:`LoRACLIPClassifier`, but for those of LoRA.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: An argument is unknown, or is about LoRA.
    """

    plain_config = refuse_merging('the cache of Tip-Adapter is no part of a plain CLIP, so nothing can be merged')

    def __init__(
        self, finetune: bool = False, alpha: float = 1.0, beta: float = 5.5, num_views: int = 10,
        num_classes: int | None = None, cache_size: int | None = None, classes: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        check_no_lora('TipAdapter', kwargs)
        check_weights([alpha], [beta])
        for name, value in dict(num_views=num_views, cache_size=cache_size).items():
            whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not whole and not (name == 'cache_size' and value is None):
                raise ValueError(f'{name} must be a whole number of at least 1, got {value!r}')
        count = check_class_count(num_classes) or len(classes or ())
        super().__init__(encoder='none', classes=classes, **kwargs)
        self.finetune, self.num_views = bool(finetune), num_views
        self.head.add_module('cache', ImageCache(cache_size or 0, count, self.arch.embed_dim, alpha, beta))
        learned = ({'head.cache.keys'} if finetune else set()) | ({'logit_scale'} if self.scale.learned else set())
        freeze(self, learned)

    @staticmethod
    def rows_per_class(cfg: dict[str, Any]) -> str:
        """Return the name of the tensor with a row for each class that the model of a config has."""
        return 'head.cache.known.keys'

    @staticmethod
    def rows_per_image(cfg: dict[str, Any]) -> str:
        """Return the name of the tensor with a row for each training image that the model of a config has."""
        return 'head.cache.keys'

    @torch.no_grad()
    def start_training(self, read_view: Callable[[int], Iterable[tuple[Tensor, Sequence[DataSample]]]]) -> None:
        """Fill the cache; a run calls this before its first step.

        Args:
            read_view: Gives all training images of a view, in batches: inputs ``(b, 3, H, W)``, prepared, or features
                ``(b, D)``, and their samples; the same images in the same order for each view.

        Raises:
            ValueError: There is not a row for each image and class, or an image has no label.
        """
        self._need_classes()
        cache, training = self.head.cache, self.training
        cache.known.learn(self._classes)
        self.eval()
        features, values = self._look_at(read_view(0))
        for view in range(1, self.num_views):
            features = features + self._look_at(read_view(view))[0]
        self.train(training)
        if len(features) != len(cache.keys):
            raise ValueError(f'the cache has room for {len(cache.keys)} images, and there are {len(features)}: build '
                             f'the model with cache_size={len(features)}. mmlora.apis.train, which tools/train.py '
                             'calls, takes the number from the data')
        cache.keys.copy_(normalize(features / self.num_views))
        cache.values.copy_(values)

    def _look_at(self, batches: Iterable[tuple[Tensor, Sequence[DataSample]]]) -> tuple[Tensor, Tensor]:
        features, values = [], []
        for inputs, samples in batches:
            features.append(wide(self.image_features(inputs)))
            values += _rows(samples, len(self._classes))
        return torch.cat(features), torch.stack(values)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of images ``(B, 3, H, W)`` or of their features, ``(B, C)``, at least in float32.

        Raises:
            ValueError: A class has no images in the cache, or the cache is empty.
        """
        images = self.image_features(inputs)
        keys, values, alpha, beta = self._cache_tensors()
        return self.compare(images, self.class_features()) + cache_logits(images, keys, values, alpha, beta)

    def _cache_tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cache = self.head.cache
        if cache.empty:
            raise ValueError('the cache of Tip-Adapter is empty: tools/train.py fills it before the first step and '
                             'saves it in a checkpoint')
        rows = rows_of_trained(cache.known, self._classes, 'the cache of Tip-Adapter')
        values = cache.values if rows is None else cache.values[:, torch.tensor(rows, device=cache.values.device)]
        return wide(cache.keys), values, wide(cache.alpha), wide(cache.beta)

    @torch.no_grad()
    def search(
        self, features: Tensor, labels: Tensor, alphas: Sequence[float], betas: Sequence[float]
    ) -> tuple[float, float, float]:
        """Set alpha and beta to those that name most images right; of equal ones the smallest alpha, then beta.

        Args:
            features: Of validation images, ``(n, D)``.
            labels: Theirs, ``(n,)``.
            alphas: The weights to try.
            betas: The sharpnesses to try.

        Returns:
            alpha, beta and the accuracy in percent.

        Raises:
            ValueError: There is nothing to try, or a number is out of range; or the cache is empty.
        """
        check_weights(alphas, betas)
        keys, values, *_ = self._cache_tensors()
        zero_shot = self.compare(features, self.class_features())
        best = (-1.0, 0.0, 0.0)
        for beta in sorted(betas):
            near = cache_logits(features, keys, values, 1.0, beta)
            for alpha in sorted(alphas):
                right = float(((zero_shot + alpha * near).argmax(dim=1) == labels).double().mean())
                best = max(best, (right, -alpha, -beta))
        accuracy, alpha, beta = best[0] * 100, -best[1], -best[2]
        self.head.cache.alpha.fill_(alpha)
        self.head.cache.beta.fill_(beta)
        return alpha, beta, accuracy


def check_weights(alphas: Sequence[float], betas: Sequence[float]) -> None:
    """Check weights and sharpnesses of a cache.

    Raises:
        ValueError: There is none, or one is out of range.
    """
    for name, numbers, least in (('alpha', alphas, 'at least 0'), ('beta', betas, 'above 0')):
        for number in numbers:
            whole = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not whole or not 0 <= number < float('inf') or (name == 'beta' and not number):
                raise ValueError(f'{name} must be a number {least}, got {number!r}')
        if not len(numbers):
            raise ValueError(f'there is no {name} to try')


def _rows(samples: Sequence[DataSample], classes: int) -> Iterator[Tensor]:
    """Yield the labels of each sample, ``(classes,)``, 0 and 1."""
    for sample in samples:
        if 'gt_label' in sample:
            labels = sample.gt_label
        elif 'gt_score' in sample:
            labels = sample.gt_score.nonzero().flatten()
        else:
            raise ValueError(f'a few-shot image has no label: {sample}')
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f'a few-shot image has the labels {labels.tolist()}, and there are {classes} class names')
        yield torch.zeros(classes, dtype=torch.bool, device=labels.device).index_fill(0, labels.long(), True)
