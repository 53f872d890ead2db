"""The images of a test set for tuners: prepared, in any order, and encoded."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from mmengine.runner.amp import autocast
from torch import Tensor
from torch.utils.data import DataLoader

from ..feature_encoding import LOG_SECONDS


class TestImages:
    """Reads and encodes images of a test set by their positions.

    Args:
        model: A classifier, unwrapped; its head is not used.
        loader: Its data set, batch size, workers and way to make batches are used; its sampler is not.
        fp16: Whether to encode with automatic mixed precision.
        tell: Called every few seconds with how far the encoding is.
    """

    __test__ = False  # Not a case for pytest, whatever its name.

    def __init__(
        self, model: nn.Module, loader: DataLoader, fp16: bool = False, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self.model, self.loader, self.fp16, self.tell = model, loader, bool(fp16), tell

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.loader.dataset)

    @property
    def backbone(self) -> nn.Module:
        """The backbone of the model."""
        return self.model.backbone

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.backbone.parameters()).device

    def context(self) -> AbstractContextManager:
        """Return the context in which images are encoded."""
        return autocast(enabled=self.fp16)

    def check_gradients(self) -> 'TestImages':
        """Return self, for what learns through the model.

        Raises:
            ValueError: Features are in half precision on a GPU, where small gradients would be lost without scaling.
        """
        if self.fp16 and torch.cuda.is_available():
            raise ValueError('what learns through the model would lose small gradients in float16: leave out --amp')
        return self

    def features(self, inputs: Tensor) -> Tensor:
        """Return the features ``(B, D)`` of prepared images, in single precision or better.

        Raises:
            ValueError: The features are no vectors.
        """
        with self.context():
            features = self.model.extract_feat(inputs)[-1]
        if features.ndim != 2:
            raise ValueError(f'the features of {type(self.model).__name__} have the shape {tuple(features.shape)}, and '
                             'episodes need (B, D): add a neck such as GlobalAveragePooling')
        return features.to(torch.promote_types(features.dtype, torch.float32))

    def read(self, groups: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Yield the prepared images ``(n, C, H, W)`` of each group of positions."""
        reader = DataLoader(self.loader.dataset, batch_sampler=[group.tolist() for group in groups],
                            collate_fn=self.loader.collate_fn, num_workers=self.loader.num_workers,
                            worker_init_fn=self.loader.worker_init_fn)
        for data in reader:
            yield self.model.data_preprocessor(data, False)['inputs']

    @torch.no_grad()
    def encode(self, feature: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the features of all images.

        Args:
            feature: Gives ``(B, ...)`` for prepared images; :meth:`features` by default.

        Returns:
            ``(N, ...)`` on the device of the model.
        """
        size, begin = self.loader.batch_size or 32, time.monotonic()
        groups = np.split(np.arange(len(self)), range(size, len(self), size))
        found: list[Any] = []
        last = begin
        for number, inputs in enumerate(self.read(groups), 1):
            found.append((feature or self.features)(inputs))
            if time.monotonic() - last > LOG_SECONDS:
                last = time.monotonic()
                left = (last - begin) / number * (len(groups) - number)
                self.tell(f'{min(number * size, len(self))} of {len(self)} images encoded, {left:.0f} s left')
        return torch.cat(found)
