"""Criteria that look at batches of training data, through the frozen model, before any adapter exists.

Each is a function ``(pieces, layers, steps) -> list``. ``pieces`` are the parts that take a rank, ``layers`` the bare
linear layers by name, ``steps`` yields a function for each batch, which runs the model on it and returns the loss. It
returns an entry for each piece: a number, or the descending scores of its components.

``eva``: Paischer et al., "One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation", 2024,
arXiv 2410.07170, the rank redistribution: each principal component of a layer's input explains a share of its variance,
and the best components over all layers win. Deviations: the covariance of all tokens of the given batches is exact,
where the paper updates a truncated decomposition until it converges; and the factors are not initialised with the
components.

``gradient``: He et al., "GoRA: Gradient-driven Adaptive Low Rank Adaptation", 2025, arXiv 2502.12171: importance is the
mean of ``|W * G|`` over the entries of W, with G the gradient averaged over the batches. Deviations: ranks are in
proportion to the importance under the budgets of this package, not under the paper's; and the factors are not
initialised from the gradient.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from .pieces import Piece

Steps = Iterable[Callable[[], Tensor]]


class InputCovariance:
    """Forward hook that sums up the inputs of a layer, in float64.

    Args:
        in_features: Width of the input.
        device: Where the inputs lie; on a CPU the products would take longer than the model.
    """

    def __init__(self, in_features: int, device: torch.device | str = 'cpu') -> None:
        like = dict(dtype=torch.float64, device=device)
        self.count = 0
        self.sum = torch.zeros(in_features, **like)
        self.products = torch.zeros(in_features, in_features, **like)

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Add the tokens of an input ``(..., in)``."""
        x = args[0].detach().flatten(0, -2).double()  # (tokens, in)
        self.count += x.shape[0]
        self.sum += x.sum(0)
        self.products += x.T @ x

    def explained_variance(self) -> list[float]:
        """Return the share of variance of each principal component, descending; they sum to 1.

        Raises:
            ValueError: The inputs do not vary, or are not finite, or there were none.
        """
        if not self.count:
            raise ValueError('is never called in a forward pass')
        mean = self.sum / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        if not torch.isfinite(covariance).all():
            raise ValueError('has inputs that are not finite')
        values = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
        if values[0] <= 0:
            raise ValueError('has inputs that do not vary')
        return (values / values.sum()).tolist()


def component_scores(pieces: Sequence[Piece], layers: Mapping[str, nn.Linear], steps: Steps) -> list[list[float]]:
    """Return the explained variances of the components of each piece's input; pieces of one layer share them.

    Raises:
        ValueError: A layer has no inputs, or inputs without variance.
    """
    sums = {name: InputCovariance(layer.in_features, layer.weight.device) for name, layer in layers.items()}
    handles = [layers[name].register_forward_pre_hook(own) for name, own in sums.items()]
    try:
        with torch.no_grad():
            for step in steps:
                step()
    finally:
        for handle in handles:
            handle.remove()
    scores = {}
    for name, own in sums.items():
        try:
            scores[name] = own.explained_variance()
        except ValueError as error:
            raise ValueError(f'{name} {error}: eva has nothing to go by') from None
    return [scores[piece.module] for piece in pieces]


def gradient_importance(pieces: Sequence[Piece], layers: Mapping[str, nn.Linear], steps: Steps) -> list[float]:
    """Return the mean of ``|W * G|`` over the rows of each piece.

    Raises:
        ValueError: A gradient is missing or not finite, or all are zero.
    """
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    weights = [layers[name].weight for name in layers]
    total = [torch.zeros_like(w, dtype=torch.float64, device='cpu') for w in weights]
    count = 0
    for step in steps:
        grads = torch.autograd.grad(step(), weights, allow_unused=True)
        for name, own, grad in zip(layers, total, grads, strict=True):
            if grad is None:
                raise ValueError(f'{name} has no gradient: the loss does not depend on it')
            own += grad.detach().to('cpu', torch.float64)
        count += 1
    importance = {
        name: (layer.weight.detach().to('cpu', torch.float64) * own / max(count, 1)).abs()
        for (name, layer), own in zip(layers.items(), total, strict=True)
    }
    values = [float(importance[piece.module][piece.rows].mean()) for piece in pieces]
    if not all(torch.isfinite(own).all() for own in importance.values()) or not any(values):
        raise ValueError('the gradients of all weights are zero or not finite: is the head initialised with zeros?')
    return values
