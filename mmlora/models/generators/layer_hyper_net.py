"""A hyper-network that makes the factors of one layer after the other from the task and the place of the layer.

Text-to-LoRA (Charakorn et al., ICML 2025, arXiv 2506.06105) feeds a network with the embedding of the task, of the
depth and of the kind of the layer, and gives each kind of layer a linear head. Here the task is a condition from
images. Deviation: the squared error is learned, not the absolute one, so that generators are comparable.
"""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ...registry import MODELS, register
from .conv_vae import reconstruction_error
from .generator import LoRAGenerator
from .sizes import check_sizes


@register(MODELS)
class LayerHyperNet(LoRAGenerator):
    """Generates each factor from [task, depth, kind].

    A head begins at zero over a learned offset, ``(L,)``: the LoRA that all tasks begin with. Nothing is drawn.

    Args:
        embed_dim: Width of the embeddings.
        hidden_dim: Width of the network.
        **kwargs: Of :class:`LoRAGenerator`.

    Raises:
        ValueError: A width is no whole number of at least 1.
    """

    def __init__(self, embed_dim: int = 64, hidden_dim: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_sizes(embed_dim=embed_dim, hidden_dim=hidden_dim)
        entries, starts, start = self.spec.entries, [], 0
        for entry in entries:
            starts.append(start)
            start += entry.length
        depths = sorted({entry.depth for entry in entries})
        self._groups: list[list[int]] = []  # rows of `depth`
        groups: dict[tuple[str, str, int], list[int]] = {}
        for number, entry in enumerate(entries):
            groups.setdefault((entry.kind, entry.factor, entry.length), []).append(number)
        self.heads, order = nn.ModuleList(), []
        for (_, _, length), numbers in groups.items():
            self._groups.append([depths.index(entries[number].depth) for number in numbers])
            order += [torch.arange(starts[number], starts[number] + length) for number in numbers]
            head = nn.Linear(hidden_dim, length)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            self.heads.append(head)
        self.register_buffer('order', torch.cat(order).argsort(), persistent=False)
        self.task = nn.Linear(self.condition_dim, embed_dim)
        self.depth = nn.Parameter(0.02 * torch.randn(len(depths), embed_dim))
        self.kind = nn.Parameter(0.02 * torch.randn(len(groups), embed_dim))
        self.net = nn.Sequential(
            nn.LayerNorm(3 * embed_dim), nn.Linear(3 * embed_dim, hidden_dim), nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim), nn.GELU())  # fmt: skip
        self.offset = nn.Parameter(torch.zeros(self.spec.length))

    def codes(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return the factors of all layers, flat; see the base class."""
        task, found = self.task(condition), []
        for kind, (head, rows) in enumerate(zip(self.heads, self._groups, strict=True)):
            depth = self.depth[rows].expand(len(task), -1, -1)  # (B, layers, E)
            joined = torch.cat([task[:, None].expand_as(depth), depth, self.kind[kind].expand_as(depth)], dim=-1)
            found.append(head(self.net(joined)).flatten(1))
        return torch.cat(found, dim=1)[:, self.order] + self.offset

    def code_loss(self, codes: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """Return ``loss_recon``."""
        return dict(loss_recon=reconstruction_error(self.codes(condition, condition[:, :0]), codes))
