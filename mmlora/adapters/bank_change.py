"""What K LoRAs add to the output of a layer, group by group of a batch: two batched products."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .parted import WHOLE
from .sliced import few_columns, join_slices


def bank_change(
    x: Tensor, factors: Mapping[str, tuple[Tensor, Tensor, Tensor]], layout: Sequence[str]
) -> Tensor:
    """Return the change of the output, group by group, with zeros where a slice has no factors.

    Args:
        x: Input, ``(G * g, ..., in)``: g samples for each of G groups, one behind the other.
        factors: For each adapted slice A ``(G, r_s, in)``, B ``(G, rows, r_s)`` and the scaling ``(G,)``.
        layout: Names of all slices in the order of their rows; ``('',)`` for one weight.

    Returns:
        ``(G * g, ..., len(layout) * rows)``.
    """
    low = _reduced(x, factors, layout)
    # (G, g N, r) -> (G, g N, rows)
    parts = {name: torch.bmm(h, factors[name][1].transpose(1, 2)) for name, h in low.items()}
    out = join_slices(parts, layout)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def add_bank_change(
    y: Tensor, x: Tensor, factors: Mapping[str, tuple[Tensor, Tensor, Tensor]], layout: Sequence[str]
) -> Tensor:
    """Return ``y + bank_change(x, factors, layout)``, in the memory of y wherever that saves some.

    The change is as large as the output: to form it apart takes a second memory of this size, and on a CPU more time
    than its products do.

    Args:
        y: Output of the frozen layer, ``(G, g N, out)``; not to be used again.
        x: Input, ``(G, g N, in)``.
        factors: As for :func:`bank_change`.
        layout: As for :func:`bank_change`.
    """
    low = _reduced(x, factors, layout)
    up = {name: factors[name][1] for name in low}
    if any(h.dtype != y.dtype for h in low.values()):  # as under autocast
        return y + bank_change(x, factors, layout).to(y.dtype)
    if layout == WHOLE or few_columns({name: b[0] for name, b in up.items()}):
        columns = low[''] if layout == WHOLE else torch.cat(list(low.values()), dim=-1)
        return y.baddbmm_(columns, (up[''] if layout == WHOLE else _along_diagonal(up, layout)).transpose(1, 2))
    if y.requires_grad or any(h.requires_grad for h in low.values()):  # slices of y would be copied for the gradient
        return y + bank_change(x, factors, layout)
    for name, rows in zip(layout, y.chunk(len(layout), dim=-1), strict=True):
        if name in low:
            rows.baddbmm_(low[name], up[name].transpose(1, 2))
    return y


def _reduced(
    x: Tensor, factors: Mapping[str, tuple[Tensor, Tensor, Tensor]], layout: Sequence[str]
) -> dict[str, Tensor]:
    """Return ``s x A^T`` of each adapted slice, ``(G, g N, r_s)``, in the order of the layout; x is read once."""
    names = [name for name in layout if name in factors]
    ranks = [factors[name][0].shape[1] for name in names]
    down = torch.cat([factors[name][0] for name in names], 1) if len(names) > 1 else factors[names[0]][0]
    grouped = x.reshape(down.shape[0], -1, x.shape[-1])  # (G g, ..., in) -> (G, g N, in)
    low = torch.bmm(grouped, down.transpose(1, 2)).split(ranks, dim=-1)
    return {name: h * factors[name][2][:, None, None] for name, h in zip(names, low, strict=True)}


def _along_diagonal(up: Mapping[str, Tensor], layout: Sequence[str]) -> Tensor:
    """Return B of all slices along a diagonal with zeros elsewhere, ``(G, len(layout) * rows, sum of r_s)``."""
    some = next(iter(up.values()))
    ranks = {name: b.shape[2] for name, b in up.items()}
    total, start, blocks = sum(ranks.values()), 0, []
    for name in layout:
        if name in up:
            blocks.append(F.pad(up[name], (start, total - start - ranks[name])))
            start += ranks[name]
        else:
            blocks.append(some.new_zeros(*some.shape[:2], total))
    return torch.cat(blocks, dim=1)
