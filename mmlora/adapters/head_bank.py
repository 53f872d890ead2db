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
        use: The number of the head of all samples or of each sample, -1 for that of the model.

    Raises:
        ValueError: The width of a head is another.
    """

    def __init__(self, own: nn.Linear, heads: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        super().__init__()
        self.own, self.use, self.in_features = own, -1, own.in_features
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

    def forward(self, x: Tensor) -> Tensor:
        """Apply the heads, ``(B, D) -> (B, n)``."""
        if isinstance(self.use, int):
            n = self.sizes[self.use]
            return F.linear(x, self.weight[self.use, :n], self.bias[self.use, :n])
        index = torch.as_tensor(self.use, device=x.device)
        return torch.baddbmm(self.bias[index].unsqueeze(1), x.unsqueeze(1), self.weight[index].mT).squeeze(1)
