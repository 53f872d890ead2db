"""What all generators of LoRAs share: the codec of the vectors, the standardised conditions, and how they are used."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from mmengine.model import BaseModel
from torch import Tensor

from ...adapters.lora_spec import LoRASpec
from ...registry import MODELS
from .codec import STD_FLOOR, LoRACodec
from .sizes import check_sizes


class ConditionScaler(nn.Module):
    """Standardises the last axis of descriptions over a bank; what does not vary becomes 0.

    Args:
        width: Of the descriptions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('std', torch.zeros(width))
        self.register_buffer('count', torch.tensor(0))

    @torch.no_grad()
    def fit(self, descriptions: Tensor) -> None:
        """Fill the statistics from descriptions ``(..., W)``.

        Raises:
            ValueError: They are of another width, not finite, or fewer than two.
        """
        self._check(descriptions)
        flat = descriptions.reshape(-1, descriptions.shape[-1]).double()
        if len(flat) < 2 or not flat.isfinite().all():
            raise ValueError(f'conditions are standardised over at least 2 finite descriptions, got {len(flat)}')
        self.mean.copy_(flat.mean(0))
        self.std.copy_(flat.std(0))
        self.count.fill_(len(flat))

    def forward(self, descriptions: Tensor) -> Tensor:
        """Return standardised descriptions.

        Raises:
            ValueError: They are of another width, or there are no statistics.
        """
        self._check(descriptions)
        if not self.count:
            raise ValueError('the generator has no statistics of conditions: list FitGeneratorHook in custom_hooks, or '
                             'load a generator that was saved after training')
        varies = self.std > STD_FLOOR
        return torch.where(varies, (descriptions - self.mean) / torch.where(varies, self.std, 1.0), 0.0)

    def _check(self, descriptions: Tensor) -> None:
        if descriptions.shape[-1] != len(self.mean):
            raise ValueError(f'descriptions of tasks have the width {descriptions.shape[-1]}, the generator is built '
                             f'for {len(self.mean)}: extract them with the task_encoder of its config')


class LoRAGenerator(BaseModel):
    """From descriptions of tasks to vectors of LoRAs; a base class.

    A batch of training is ``inputs=dict(vector=(B, L), condition=(B, ...))``: LoRAs and descriptions of their tasks.

    Args:
        spec: Of the LoRAs, or its document. :func:`mmlora.apis.train` takes it from the bank of the training data.
        description_dim: Width of the descriptions; likewise.
        codec: Arguments of :class:`LoRACodec` besides the spec.
        task_encoder: Config of the encoder of tasks, ``MeanFeature`` by default.
        data_preprocessor: As in mmengine.
        init_cfg: As in mmengine.

    Raises:
        ValueError: The spec or the width is missing, or an argument is out of range.
    """

    closed_form = False
    """Whether :meth:`fit` is all the training there is."""

    def __init__(
        self,
        spec: LoRASpec | Mapping[str, Any] | None = None,
        description_dim: int | None = None,
        codec: Mapping[str, Any] | None = None,
        task_encoder: Any = None,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if spec is None or description_dim is None:
            raise ValueError(f'{type(self).__name__} needs spec and description_dim: tools/train.py takes them from '
                             'the bank and the task vectors of train_dataloader.dataset')
        spec = spec if isinstance(spec, LoRASpec) else LoRASpec.from_document(spec)
        self.codec = LoRACodec(spec, **(codec or {}))
        self.task_encoder = MODELS.build(task_encoder or dict(type='MeanFeature'))
        self.scaler = ConditionScaler(description_dim)
        self.condition_dim = self.task_encoder.condition_dim(description_dim)

    @property
    def spec(self) -> LoRASpec:
        """Of the vectors that are generated."""
        return self.codec.spec

    @torch.no_grad()
    def fit(
        self, vectors: Tensor, descriptions: Tensor, tasks: Tensor, shared: Mapping[str, Tensor] | None = None
    ) -> None:
        """Take in the statistics of a bank; generators in closed form are trained afterwards.

        Args:
            vectors: ``(n, L)``, the LoRAs, the best of each task first.
            descriptions: ``(T, K, ...)``, K of each task.
            tasks: int64 ``(n,)``, the task of each LoRA.
            shared: The A that all LoRAs share, by key; where ``factors='B'``.

        Raises:
            ValueError: There are fewer than two LoRAs, or they do not fit.
        """
        if len(vectors) < 2:
            raise ValueError(f'the bank holds {len(vectors)} LoRA: there is nothing to learn from fewer than 2. Add '
                             'checkpoints or tasks to the bank')
        self.codec.fit(vectors, shared if self.codec.factors == 'B' else None)
        self.scaler.fit(descriptions)
        if self.closed_form:
            conditions = self.condition(descriptions.flatten(0, 1)).unflatten(0, descriptions.shape[:2])
            self.fit_codes(self.codec.encode(vectors), conditions, tasks)

    def fit_codes(self, codes: Tensor, conditions: Tensor, tasks: Tensor) -> None:
        """Train in closed form on codes ``(n, L)``, conditions ``(T, K, C)`` and tasks ``(n,)``."""
        raise NotImplementedError

    def condition(self, descriptions: Tensor) -> Tensor:
        """Return conditions ``(B, C)`` of descriptions ``(B, ...)``; gradients flow into a learned encoder."""
        return self.task_encoder(self.scaler(descriptions))

    def generate(
        self, descriptions: Tensor, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return vectors of LoRAs, ``(B, num_samples, L)``; gradients flow.

        Args:
            descriptions: Of tasks, ``(B, ...)``.
            num_samples: The first is without noise (z = 0), the others are drawn.
            generator: Draws on the CPU, so that a seed gives the same on any device.

        Raises:
            ValueError: There are no statistics, the descriptions do not fit, or more than one is asked of a generator
                that draws nothing.
        """
        check_sizes(num_samples=num_samples)
        condition = self.condition(descriptions)
        noise = torch.zeros(len(condition), num_samples, self.noise_dim)
        if num_samples > 1:
            if not self.noise_dim:
                raise ValueError(f'{self.about} draws nothing: it has one LoRA for a task, so ask for num_samples=1, '
                                 f'not {num_samples}')
            noise[:, 1:].normal_(generator=generator)
        codes = self.codes(condition.repeat_interleave(num_samples, 0), noise.flatten(0, 1).to(condition))
        return self.codec.decode(codes).unflatten(0, (-1, num_samples))

    @property
    def noise_dim(self) -> int:
        """Size of the noise of a sample; 0 where nothing is drawn."""
        return 0

    @property
    def about(self) -> str:
        """What messages call the generator."""
        return type(self).__name__

    @abstractmethod
    def codes(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return codes ``(B, L)`` of conditions ``(B, C)`` and noise ``(B, noise_dim)``."""

    def code_loss(self, codes: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss for codes ``(B, L)`` and conditions ``(B, C)``."""
        raise NotImplementedError

    def loss(self, vectors: Tensor, descriptions: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss for LoRAs ``(B, L)`` and descriptions of their tasks ``(B, ...)``."""
        return self.code_loss(self.codec.encode(vectors), self.condition(descriptions))

    def forward(self, inputs: Mapping[str, Tensor], data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Return losses with ``mode='loss'``, else generated vectors, ``(B, 1, L)``.

        Raises:
            ValueError: The mode is unknown.
        """
        if mode == 'loss':
            return self.loss(inputs['vector'], inputs['condition'])
        if mode in ('tensor', 'predict'):
            return self.generate(inputs['condition'])
        raise ValueError(f"mode={mode!r} must be 'loss', 'predict' or 'tensor'")
