"""One training step or one forward pass of a function of a tensor, as a case."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..core import Case

Gradients = Callable[[], Mapping[str, Tensor]]


def step(
    name: str,
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    learned: Sequence[Tensor] = (),
    known: Sequence[Tensor] = (),
    gradients: Gradients | None = None,
    check: Callable[[Tensor], Tensor] | None = None,
) -> Case:
    """Return forward and backward of ``function(x)``, with the gradients of x and of what is learned.

    Args:
        name: Of the case.
        function: The work.
        x: Input, a leaf that requires a gradient, or none where ``function`` has an input of its own kind.
        learned: Leaves whose gradients are thrown away after each run.
        known: Frozen tensors, which are not counted as kept.
        gradients: Returns gradients of learned tensors by name after a backward pass, for the comparison with others.
            None means that the case is compared with nothing.
        check: Takes the place of ``function`` in the comparison, where that draws random numbers.
    """
    leaves = [tensor for tensor in (x, *learned) if tensor.requires_grad]
    with torch.no_grad():
        toward = torch.randn(function(x).shape, generator=torch.Generator().manual_seed(7)).to(x.device)

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    def run() -> None:
        function(x).backward(toward)
        clear()

    def results() -> dict[str, Tensor]:
        clear()
        y = (check or function)(x)
        y.backward(toward)
        found = {'the output': y.detach(), **{key: value.clone() for key, value in gradients().items()}}
        if x.requires_grad:
            found['the gradient of the input'] = x.grad.clone()
        clear()
        return found

    own = [x, *learned, *known]
    return Case(name, run, results if gradients else None, lambda: function(x), lambda: own)


def forward(name: str, function: Callable[[Tensor], Tensor], x: Tensor, compare: bool = True) -> Case:
    """Return ``function(x)`` without gradients as a case; ``compare=False`` where it does other work than the rest."""

    @torch.no_grad()
    def run() -> Tensor:
        return function(x)

    return Case(name, run, (lambda: {'the output': run()}) if compare else None)


def frozen_tensors(module: nn.Module) -> list[Tensor]:
    """Return parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]
