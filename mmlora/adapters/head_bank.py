"""The linear heads of K adapters and the model's own, of which each sample of a batch uses one."""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class HeadBank(nn.Module):
    """Stands for a linear classifier.

    A head with fewer classes than the largest gives ``-inf`` for those that it lacks, where a batch uses several heads:
    their probability is zero. Where all samples use one head, there are its classes alone.

    Args:
        own: The classifier in whose place it is, for samples without an adapter.
        heads: Weight ``(n, D)`` and bias ``(n)`` of each adapter, or None where it uses that of the model.

    Attributes:
        sizes: Classes of each head; the last one is that of the model.

    Raises:
        ValueError: The width of a head is another.
    """

    def __init__(self, own: nn.Linear, heads: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        super().__init__()
        self.own, self.in_features = own, own.in_features
        bias = own.weight.new_zeros(own.out_features) if own.bias is None else own.bias
        rows = [(own.weight, bias) if head is None else head for head in [*heads, None]]  # -1 is the last row.
        self.sizes = [len(weight) for weight, _ in rows]
        wrong = [tuple(weight.shape) for weight, _ in rows if weight.shape[1] != own.in_features]
        if wrong:
            raise ValueError(f'a head of the shape {wrong[0]} does not fit features of {own.in_features} numbers')
        more = [max(self.sizes) - n for n in self.sizes]
        for name, fill, column in (('weight', 0.0, 0), ('bias', float('-inf'), 1)):
            padded = [F.pad(row[column].detach().to(own.weight), (0, 0, 0, m) if column == 0 else (0, m), value=fill)
                      for row, m in zip(rows, more, strict=True)]
            self.register_buffer(name, torch.stack(padded), persistent=False)
        self.use = -1

    @property
    def use(self) -> int | list[int]:
        """The number of the head of all samples, or of each sample; -1 for that of the model."""
        return self._use

    @use.setter
    def use(self, numbers: int | list[int]) -> None:
        self._use = numbers
        self._each = not isinstance(numbers, int)
        given = torch.tensor(numbers if self._each else [numbers])
        # A compiled model looks at these alone: another head of as many classes compiles nothing anew.
        self._index = given.where(given >= 0, given + len(self.sizes))
        self._classes = max(self.sizes) if self._each else self.sizes[numbers]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the heads, ``(B, D) -> (B, n)``."""
        index, n = self._index.to(x.device), self._classes
        weight, bias = self.weight.index_select(0, index)[:, :n], self.bias.index_select(0, index)[:, :n]
        if not self._each:
            return F.linear(x, weight[0], bias[0])
        return torch.baddbmm(bias.unsqueeze(1), x.unsqueeze(1), weight.mT).squeeze(1)

    @torch.no_grad()
    def to_plain(self) -> nn.Linear:
        """Return a plain layer that computes the same as the head that all samples use.

        Raises:
            ValueError: Samples use several.
        """
        if self._each:
            raise ValueError('the samples of a batch use several heads, which no one layer can hold: choose one')
        if self._use == -1:
            return self.own
        plain = nn.Linear(self.in_features, self._classes, device='meta')
        weight, bias = (tensor[self._use, : self._classes].clone() for tensor in (self.weight, self.bias))
        plain.weight, plain.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
        return plain.train(self.training)
