"""One training step of a fused qkv: frozen, with LoRA on q and v, with the dense change, and fully trained.

And how ours grows with the rank, the tokens of an image and the images of a batch.
"""

from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmlora.adapters import SlicedLoRALinear

from ..core import Case, Comparison, Growth
from .steps import frozen_tensors, step

ABOUT = """
One training step of a fused qkv with LoRA on q and v, the layer of every vision transformer here: frozen (the floor),
ours, the change formed as a matrix in each step, and fully trained. Then ours with growing rank, tokens and images; see
also [adapters](adapters.md#cost).
"""

GROWING = {'rank': (4, 16, 64, 128), 'tokens': (50, 100, 197, 394), 'images': (2, 4, 8, 16)}
QUICK = {'rank': (2, 4), 'tokens': (4, 8), 'images': (2, 4)}


class DenseChange(SlicedLoRALinear):
    """The same layer, but with the change formed as a matrix in each step."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply ``W + delta``."""
        return F.linear(x, self.weight + self.delta(), self.bias)


def growing(parameter: str, quick: bool, device: torch.device) -> Growth:
    """Return ours while one size grows and the others stay at rank 8, 197 tokens and 8 images."""
    width, usual = (16, dict(rank=2, tokens=5, images=2)) if quick else (768, dict(rank=8, tokens=197, images=8))

    def case(size: int) -> Case:
        sizes = {**usual, parameter: size}
        torch.manual_seed(0)
        frozen = nn.Linear(width, 3 * width).requires_grad_(False)
        layer = SlicedLoRALinear.from_linear(frozen, rank=sizes['rank']).to(device)
        x = torch.randn(sizes['images'], sizes['tokens'], width).to(device).requires_grad_()
        learned = [p for p in layer.parameters() if p.requires_grad]
        return step(f'{parameter} {size}', layer, x, learned, frozen_tensors(layer))

    cases = {size: case(size) for size in (QUICK if quick else GROWING)[parameter]}
    others = ', '.join(f'{name} {size}' for name, size in usual.items() if name != parameter)
    title = f'Fused qkv, width {width}, {others}: ours, forward and backward, growing {parameter}'
    return Growth(title, parameter, cases, 2 if quick else 9)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare the ways at rank 8, width 768, 8 images of 197 tokens, and let each size grow."""
    width, rank, tokens = (16, 2, 5) if quick else (768, 8, 197)
    torch.manual_seed(0)
    frozen = nn.Linear(width, 3 * width).requires_grad_(False)
    adapted = SlicedLoRALinear.from_linear(frozen, rank=rank)
    for _, b in adapted.factors().values():
        nn.init.normal_(b, std=0.02)
    dense = DenseChange.from_linear(frozen, rank=rank)
    dense.set_factors(adapted.factors())
    trained = nn.Linear(width, 3 * width)
    x = torch.randn(8, tokens, width).to(device).requires_grad_()

    def case(name: str, layer: nn.Module, compared: bool) -> Case:
        layer.to(device)
        learned = {n: p for n, p in layer.named_parameters() if p.requires_grad}

        def gradients() -> dict[str, Tensor]:
            return {n: p.grad for n, p in learned.items()}

        return step(name, layer, x, list(learned.values()), frozen_tensors(layer), gradients if compared else None)

    cases = [
        case('frozen', frozen, False),
        case('LoRA on q and v (ours)', adapted, True),
        case('the same, dense change', dense, True),
        case('fully trained', trained, False),
    ]
    title = f'Fused qkv, width {width}, rank {rank}, 8 images of {tokens} tokens: forward and backward'
    yield Comparison(title, cases, 'frozen', 'the same, dense change', 1e-4, rounds=2 if quick else 21)
    for parameter in GROWING:
        yield growing(parameter, quick, device)
