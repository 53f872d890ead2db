"""One training step of an RLRR layer, in the ways it can be computed."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlora.adapters.rlrr import rescaled, rescaled_linear

from ..core import Case, Comparison
from .steps import step

ABOUT = """
An RLRR layer, whose weight is scaled by row and by column, in the ways it can be computed; see [RLRR](rlrr.md#cost).
"""

SHAPES = {'ViT-B qkv, 32 images': (32 * 197, 768, 2304), 'small, 8 images': (8 * 65, 96, 288)}
QUICK = {'tiny': (10, 8, 24)}


def published(x: Tensor, w: Tensor, b: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Form the changed weight as the published code does."""
    return F.linear(x, w * s_in * s_out + w, b)


def weight_side(x: Tensor, w: Tensor, b: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Form the changed weight and let autograd keep it."""
    return F.linear(x, rescaled(w, s_out, s_in), b)


def two_products(x: Tensor, w: Tensor, b: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Scale the activations, and never the weight."""
    return torch.addcmul(F.linear(x, w, b), F.linear(x * s_in[0], w), s_out[:, 0])


WAYS: dict[str, Callable[..., Tensor]] = {
    'as published': published,
    'two products': two_products,
    'changed weight, kept': weight_side,
    'changed weight, formed twice (ours)': rescaled_linear,
}


def suite(device: torch.device, quick: bool) -> Iterator[Comparison]:
    """Compare the ways on a large and a small layer; the scales are of rank 1."""
    for name, sizes in (QUICK if quick else SHAPES).items():
        yield side_by_side(name, *sizes, device, 2 if quick else 7)


def side_by_side(name: str, tokens: int, inputs: int, outputs: int, device: torch.device, rounds: int) -> Comparison:
    """Return the ways at one size of the layer."""
    torch.manual_seed(0)
    x = torch.randn(tokens, inputs).to(device).requires_grad_()
    w = (torch.randn(outputs, inputs) / inputs**0.5).to(device)
    shapes = {'the bias': (outputs,), 'S_out': (outputs, 1), 'S_in': (1, inputs)}
    learned = {key: (0.1 * torch.randn(shape)).to(device).requires_grad_() for key, shape in shapes.items()}
    bias = learned['the bias'].detach()

    def gradients() -> dict[str, Tensor]:
        return {key: tensor.grad for key, tensor in learned.items()}

    def case(way: str, function: Callable[..., Tensor]) -> Case:
        return step(way, lambda x: function(x, w, *learned.values()), x, [*learned.values()], [w], gradients)

    frozen = step('frozen', lambda x: F.linear(x, w, bias), x, known=[w, bias])
    cases = [frozen, *(case(way, function) for way, function in WAYS.items())]
    return Comparison(f'{name}: forward and backward', cases, 'frozen', 'as published', 1e-4, rounds=rounds)
