"""Muon for the matrices of a network, AdamW for everything else, as one optimizer.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (kellerjordan.github.io/posts/muon): the
momentum of a matrix is replaced by the nearest semi-orthogonal matrix, so that all its directions are learned at the
same speed. The five Newton-Schulz iterations are those of the post. Steps are scaled to the size of AdamW's, by
``0.2 * sqrt(max(rows, columns))`` (Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, eq. 4), so one
learning rate serves both.

Deviation: the iterations run in the parameter's own precision, not in bfloat16.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..registry import OPTIMIZERS, register

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Bring all singular values of a matrix near 1 by Newton-Schulz iterations.

    Args:
        matrix: ``(m, n)``.
        steps: Number of iterations; after 5, singular values of a well-conditioned matrix lie in about 0.7..1.2.

    Returns:
        ``(m, n)`` with the same singular vectors.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.mT if matrix.size(0) > matrix.size(1) else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.size(0) > matrix.size(1) else x


@register(OPTIMIZERS)
class MuonAdamW(torch.optim.Optimizer):
    """Muon for parameters with two dimensions, AdamW for all others.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate of both.
        betas: AdamW's decay rates.
        eps: AdamW's denominator term.
        weight_decay: Decoupled weight decay of both.
        momentum: Muon's Nesterov momentum.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not all(0 <= rate < 1 for rate in (*betas, momentum)):
            raise ValueError(
                f'lr={lr} and weight_decay={weight_decay} must be at least 0, betas={betas} and momentum={momentum} '
                'within 0 <= rate < 1'
            )
        defaults = dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, momentum=momentum)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Take one step; ``closure`` recomputes the loss, as in ``torch.optim``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group['params']:
                if param.grad is None:
                    continue
                param.mul_(1 - group['lr'] * group['weight_decay'])
                update = self._muon if param.ndim == 2 else self._adam
                update(param, self.state[param], group)
        return loss

    @staticmethod
    def _muon(param: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state['momentum'] = torch.zeros_like(param)
        momentum = state['momentum'].lerp_(param.grad, 1 - group['momentum'])
        direction = orthogonalize(torch.lerp(param.grad, momentum, group['momentum']))
        param.add_(direction, alpha=-group['lr'] * 0.2 * max(param.shape) ** 0.5)

    @staticmethod
    def _adam(param: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, mean=torch.zeros_like(param), square=torch.zeros_like(param))
        state['step'] += 1
        beta1, beta2 = group['betas']
        mean = state['mean'].lerp_(param.grad, 1 - beta1)
        square = state['square'].lerp_(param.grad**2, 1 - beta2)
        scale = (square / (1 - beta2 ** state['step'])).sqrt_().add_(group['eps'])
        param.addcdiv_(mean, scale, value=-group['lr'] / (1 - beta1 ** state['step']))
