"""Generators without training by steps: regression in closed form, and LoRAs that are looked up.

They are what learned generators must beat: audits of generated weights ("Generalization or Memorization?", arXiv
2506.07998) find replicas and averages of what was trained. All that they know is in their state, so that they are saved
and loaded as any other.
"""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ...registry import MODELS, register
from .generator import LoRAGenerator
from .sizes import check_sizes


def ridge_regression(inputs: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return weight ``(C, k)`` and bias ``(k,)`` that minimise ``mean ||y - x W - b||^2 + ridge ||W||^2``.

    The smaller of the two equal systems is solved, in float64.

    Args:
        inputs: ``(n, C)``.
        targets: ``(n, k)``.
        ridge: Above 0.
    """
    x, y = inputs.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    rows, columns = x.shape
    penalty = ridge * rows * torch.eye(min(rows, columns), dtype=x.dtype, device=x.device)
    if columns <= rows:
        weight = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    else:
        weight = x.T @ torch.linalg.solve(x @ x.T + penalty, y)
    return weight, y_mean - x_mean @ weight


def principal_components(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean ``(L,)`` and the first orthonormal components ``(k, L)``, k at most ``count``; float64.

    Those without variance are left out.
    """
    vectors = vectors.double()
    mean = vectors.mean(0)
    _, size, components = torch.linalg.svd(vectors - mean, full_matrices=False)
    kept = size[:count] > 1e-9 * size[:1].clamp_min(1e-300)
    return mean, components[:count][kept]


def _fixed(*shape: int) -> nn.Parameter:
    # A parameter that does not learn: an optimizer, which training asks for, refuses a model without any.
    return nn.Parameter(torch.zeros(*shape), requires_grad=False)


class ClosedFormGenerator(LoRAGenerator):
    """A generator that :meth:`fit` trains; a base class. Its loop is ``TrainingFreeLoop``.

    Raises:
        ValueError: The task encoder learns, which it cannot here.
    """

    closed_form = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if list(self.task_encoder.parameters()):
            raise ValueError(f'{self.about} is fitted in closed form, in which {type(self.task_encoder).__name__} '
                             'cannot learn: take MeanFeature, PrototypeStats or SupportGradient')

    def code_loss(self, codes: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """Refuse: there is nothing to step.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f'{self.about} is fitted in closed form before the first step and has no loss: set '
                         "train_cfg=dict(type='TrainingFreeLoop')")


@register(MODELS)
class PCARidge(ClosedFormGenerator):
    """Principal components of the bank, and ridge regression from the condition to their coefficients.

    A LoRA is the prediction; others add noise of the size of the residuals of the regression.

    Args:
        num_components: At most so many; fewer where the bank has less variance.
        ridge: Weight of the penalty beside the mean squared error.
        **kwargs: Of :class:`LoRAGenerator`.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, num_components: int = 32, ridge: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_sizes(num_components=num_components)
        if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not ridge > 0:
            raise ValueError(f'ridge must be a number above 0, got {ridge!r}')
        self.num_components, self.ridge = num_components, float(ridge)
        self.mean, self.components = _fixed(self.spec.length), _fixed(num_components, self.spec.length)
        self.weight, self.bias = _fixed(self.condition_dim, num_components), _fixed(num_components)
        self.residual = _fixed(num_components)

    @property
    def noise_dim(self) -> int:
        """Number of components."""
        return self.num_components

    @torch.no_grad()
    def fit_codes(self, codes: Tensor, conditions: Tensor, tasks: Tensor) -> None:
        """Fit components and regression; each LoRA is seen with each condition of its task."""
        mean, components = principal_components(codes, self.num_components)
        known = len(components)
        own = ((codes.double() - mean) @ components.T).repeat_interleave(conditions.shape[1], 0)  # (n K, k)
        inputs = conditions[tasks].flatten(0, 1)
        weight, bias = ridge_regression(inputs, own, self.ridge)
        residual = (own - inputs.double() @ weight - bias).square().mean(0).sqrt()
        for fixed in (self.components, self.weight, self.bias, self.residual):
            fixed.zero_()
        self.mean.copy_(mean)
        self.components[:known] = components.to(self.mean)
        self.weight[:, :known], self.bias[:known] = weight.to(self.mean), bias.to(self.mean)
        self.residual[:known] = residual.to(self.mean)

    def codes(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return predicted codes; see the base class."""
        return self.mean + (condition @ self.weight + self.bias + noise * self.residual) @ self.components


def _mean(distance: Tensor, k: int, temperature: float) -> Tensor:
    return torch.full_like(distance, 1 / distance.shape[1])


def _nearest(distance: Tensor, k: int, temperature: float) -> Tensor:
    return nn.functional.one_hot(distance.argmin(1), distance.shape[1]).to(distance)


def _top_k(distance: Tensor, k: int, temperature: float) -> Tensor:
    near, places = distance.topk(min(k, distance.shape[1]), largest=False)
    return torch.zeros_like(distance).scatter(1, places, (-near / temperature).softmax(1))


RETRIEVALS = {'mean': _mean, 'nearest': _nearest, 'top_k': _top_k, 'nearest_noise': _nearest}
"""Name -> function of distances ``(B, T)``, k and temperature that gives the weight of each task."""


@register(MODELS)
class RetrievalGenerator(ClosedFormGenerator):
    """LoRAs of the bank, chosen or averaged by how near their tasks are. Each task counts with its best LoRA.

    Args:
        mode: ``'mean'`` of all tasks (a model soup), the ``'nearest'`` one, ``'top_k'`` by softmax, or
            ``'nearest_noise'``: samples behind the first are the nearest with noise.
        num_tasks: T. :func:`mmlora.apis.train` takes it from the bank.
        k: Of ``'top_k'``.
        temperature: Of ``'top_k'``; distances are squared, and the mean over the axes of the condition.
        noise_std: Of ``'nearest_noise'``, in standard deviations of the codec.
        **kwargs: Of :class:`LoRAGenerator`.

    Raises:
        ValueError: The mode is unknown, or a number is out of range.
    """

    def __init__(
        self,
        mode: str = 'nearest',
        num_tasks: int | None = None,
        k: int = 4,
        temperature: float = 1.0,
        noise_std: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.mode = mode
        super().__init__(**kwargs)
        if mode not in RETRIEVALS:
            raise ValueError(f'mode={mode!r} must be one of {", ".join(RETRIEVALS)}')
        check_sizes(num_tasks=num_tasks, k=k)
        for name, value in dict(temperature=temperature, noise_std=noise_std).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f'{name} must be a number above 0, got {value!r}')
        self.k, self.temperature, self.noise_std = k, float(temperature), float(noise_std)
        self.bank, self.places = _fixed(num_tasks, self.spec.length), _fixed(num_tasks, self.condition_dim)

    @property
    def noise_dim(self) -> int:
        """L with ``'nearest_noise'``, else 0."""
        return self.spec.length if self.mode == 'nearest_noise' else 0

    @property
    def about(self) -> str:
        """Name and mode."""
        return f'RetrievalGenerator(mode={self.mode!r})'

    @torch.no_grad()
    def fit_codes(self, codes: Tensor, conditions: Tensor, tasks: Tensor) -> None:
        """Keep the first LoRA and the mean condition of each task.

        Raises:
            ValueError: There is another number of tasks, or one has no LoRA.
        """
        if len(conditions) != len(self.bank) or tasks.unique().tolist() != list(range(len(self.bank))):
            raise ValueError(f'the generator is built for num_tasks={len(self.bank)}, the bank has LoRAs of '
                             f'{len(tasks.unique())} tasks and conditions of {len(conditions)}')
        for task in range(len(self.bank)):
            self.bank[task] = codes[tasks == task][0]
        self.places.copy_(conditions.mean(1))

    def codes(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return weighted LoRAs of the bank; see the base class."""
        distance = (condition[:, None] - self.places).square().mean(-1)  # (B, T)
        found = RETRIEVALS[self.mode](distance, self.k, self.temperature) @ self.bank
        return found + self.noise_std * noise if self.noise_dim else found
