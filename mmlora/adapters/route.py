"""Which sample of a batch uses which adapter of a bank."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

NONE = -1
"""In a route: this sample uses no adapter."""


class Route:
    """Says which sample uses which of K adapters.

    Neighbouring samples that use the same adapter are multiplied together: of the run lengths the greatest common
    divisor is taken, so that K equal batches one behind the other need K products, and a mixed batch one a sample.

    Args:
        indices: ``(B,)`` numbers of adapters, -1 for none; or one number for all samples of any batch.
        num_adapters: K.

    Attributes:
        batch: B, or None where one number serves any batch.
        single: The adapter that all samples use (-1 for none), or None.
        index: ``(B,)`` numbers as given, or ``(1,)``; what a compiled model looks at besides the batch.
        groups: ``(G,)`` adapter of each group of ``size`` samples that use one.
        size: Samples of a group.
        used: Positions of the samples that use an adapter, or None where all do.

    Raises:
        TypeError: The indices are no whole numbers.
        ValueError: They are not one-dimensional, empty or out of range.
    """

    def __init__(self, indices: int | Sequence[int] | Tensor, num_adapters: int) -> None:
        tensor = torch.as_tensor(indices)
        if tensor.ndim > 1 or not tensor.numel():
            raise ValueError(f'a route is one number or (B,) numbers, got the shape {tuple(tensor.shape)}')
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise TypeError(f'a route holds whole numbers of adapters, got {tensor.dtype}')
        numbers = tensor.reshape(-1).tolist()
        wrong = sorted({k for k in numbers if not NONE <= k < num_adapters})
        if wrong:
            raise ValueError(f'a bank of {num_adapters} adapters has the numbers 0..{num_adapters - 1}, and {NONE} for '
                             f'none; the route names {wrong[:5]}')
        self.batch = len(numbers) if tensor.ndim else None
        self.index = torch.tensor(numbers, dtype=torch.long)
        self.single = numbers[0] if len(set(numbers)) == 1 else None
        used = [place for place, k in enumerate(numbers) if k != NONE]
        chosen = [numbers[place] for place in used]
        self.used = None if len(used) == len(numbers) else torch.tensor(used)
        self.size = math.gcd(*(len(list(run)) for _, run in groupby(chosen))) if chosen else 1
        self.groups = torch.tensor(chosen[:: self.size], dtype=torch.long)
        self.in_order = self.groups.tolist() == list(range(num_adapters))

    def repeats(self, rows: int, windows: bool, where: str) -> int:
        """Return how many rows of a layer's input belong to one sample.

        Args:
            rows: Length of the first axis of the input.
            windows: Whether the layer sees the windows of an image one behind the other.
            where: What messages call the layer.

        Raises:
            ValueError: The input does not begin with the axis of the samples.
        """
        if self.batch is None or rows == self.batch:
            return 1
        if windows and rows % self.batch == 0:
            return rows // self.batch
        kind = 'a multiple of it' if windows else 'the same'
        raise ValueError(f'the route is for {self.batch} samples, but the first axis of the input of {where} has '
                         f'{rows} entries, which must be {kind}: samples come first')

    def to(self, device: torch.device) -> 'Route':
        """Move the tensors to a device, once; return self."""
        if self.groups.device != device:
            self.groups = self.groups.to(device)
            self.used = None if self.used is None else self.used.to(device)
        return self

    def rows_used(self, repeats: int) -> Tensor | None:
        """Return the rows that use an adapter, where each sample has so many; None where all do."""
        if self.used is None or repeats == 1:
            return self.used
        return (self.used[:, None] * repeats + torch.arange(repeats, device=self.used.device)).reshape(-1)
