"""A frozen projection with products of low rank added to blocks of its columns, and its gradient, written by hand.

``y = x W^T + b``, plus ``(x A_p^T) B_p^T`` in the columns of each part p: the whole output, or slices of a fused one.

What is left over the frozen projection are products with r columns. They are bound by memory, not by arithmetic, and so
is the difference between this and what autograd makes of the same formula: the change is added in place to the fresh
output and to the fresh gradient of the input, where ``y + change`` writes both once more, into new pages.
The dense ``W + s B A`` is not formed. It was measured: it costs as much in the forward pass, would be kept or formed
again for the backward pass, and rounds the change in half precision.

Under dropout the inputs of A are dropped some rows at a time, in the forward and again in the backward pass, from masks
of one bit an element (:mod:`.input_dropout`): neither dropped inputs nor masks of their size are kept.

The gradient keeps the input and ``x A^T``. Its own derivatives, forward mode and ``vmap`` go through plain operations.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .input_dropout import InputDropout, draw_bits, draws_bits, kept_elements, kept_scale

BLOCK = 256
"""Rows that are dropped at a time, a multiple of 8: as many as stay in a core's cache. Found by measurement."""

READ = 128
"""Rows of the gradient of the output that both products with a B of all of it take at a time, to read it once. Several
parts have so much smaller products that the calls cost more."""

HALF = (torch.float16, torch.bfloat16)

Places = tuple[tuple[int, int, float], ...]
"""For each part its first row in W, the row behind its last one, and its scaling."""


class Product(NamedTuple):
    """What is added to some columns of the output.

    Attributes:
        first: The first of these columns, a row of W.
        stop: The one behind the last.
        a: A, ``(r, in)``.
        b: B, ``(stop - first, r)``.
        scaling: Of the product.
    """

    first: int
    stop: int
    a: Tensor
    b: Tensor
    scaling: float


def low_rank_sum(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    products: Sequence[Product],
    dropout: nn.Module,
    separate: bool = False,
) -> Tensor | None:
    """Return ``x W^T + b`` with the products added in their columns, ``(..., out)``; follows autocast.

    Args:
        x: Input, ``(..., in)``.
        weight: W, ``(out, in)``.
        bias: ``(out,)``.
        products: Ordered by their columns, which do not overlap.
        dropout: Of the input of A.
        separate: Whether each product draws a mask of its own; else they share one.

    Returns:
        The sum; None where plain operations serve better, and nothing was drawn: while a graph is traced or compiled;
        where factors are wider than the base in type, and the product is to be rounded last; where A is frozen and B is
        learned, so that nothing of the size of x need be kept; and where masks are not drawn as bits.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    dtype = computed_dtype(x, weight, products[0].a)
    frozen_a = any(own.b.requires_grad and not own.a.requires_grad for own in products)
    if dtype is None or (frozen_a and torch.is_grad_enabled()) or not draws_bits(dropout, x):
        return None
    level = dropout.p if dropout.training and isinstance(dropout, InputDropout) else 0.0
    count = (len(products) if separate else 1) if level else 0
    masks = [draw_bits(x.numel(), level) for _ in range(count)]
    factor = kept_scale(level)
    places, a, b = [], [], []
    for own in products:
        scaling = own.scaling * factor
        if own.b.dtype != dtype:  # The scaling comes before the rounding.
            own, scaling = own._replace(b=own.b * scaling), 1.0
        places.append((own.first, own.stop, scaling))
        a.append(own.a.to(dtype))
        b.append(own.b.to(dtype))
    bias = None if bias is None else bias.to(dtype)
    flat = x.reshape(-1, x.shape[-1]).to(dtype)
    y, _ = _LowRankSum.apply(flat, weight.to(dtype), bias, tuple(places), *a, *b, *masks)
    return y.view(*x.shape[:-1], len(weight))


def computed_dtype(x: Tensor, weight: Tensor, a: Tensor) -> torch.dtype | None:
    """Return the type that all products are computed in, as ``F.linear`` chooses it; None where there is none."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        if torch.float64 not in (x.dtype, weight.dtype, a.dtype):
            return torch.get_autocast_dtype(kind)
    return x.dtype if x.dtype == weight.dtype == a.dtype else None


def blocks(length: int, step: int) -> list[slice]:
    """Return slices of so many rows, the last one of fewer; at least one."""
    return [slice(start, min(start + step, length)) for start in range(0, max(length, 1), step)]


def kept_in(part: slice, masks: Sequence[Tensor], stacked: Tensor) -> list[Tensor]:
    """Return for each mask 1 where it keeps an element of these rows of the input, and 0 elsewhere, ``(N, in)``.

    Args:
        part: Slice of the rows, of whole bytes before it.
        masks: Of the whole input.
        stacked: ``(sum of r, in)``, in the type of the result.
    """
    width = stacked.shape[1]
    shape = (part.stop - part.start, width)
    return [kept_elements(mask, part.start * width, shape, stacked.dtype) for mask in masks]


class Parts(NamedTuple):
    """The factors of all parts in the forms that products take.

    Attributes:
        stacked: A of all parts, ``(sum of r, in)``.
        b: B of each part with its scaling.
        masks: One for all parts, one for each, or none.
        ranks: Of the parts.
        sizes: Number of rows of the stacked A that share a mask.
    """

    stacked: Tensor
    b: list[Tensor]
    masks: Sequence[Tensor]
    ranks: list[int]
    sizes: list[int]


def parts_of(places: Places, tensors: Sequence[Tensor]) -> Parts:
    """Return the parts from each A, each B and the masks."""
    k = len(places)
    a, masks = tensors[:k], tensors[2 * k :]
    b = [own * scaling for own, (_, _, scaling) in zip(tensors[k : 2 * k], places, strict=True)]
    ranks = [len(own) for own in a]
    return Parts(a[0] if k == 1 else torch.cat(a), b, masks, ranks, ranks if len(masks) > 1 else [sum(ranks)])


def pieces_of(x: Tensor, sizes: Sequence[int], dim: int = 0) -> Sequence[Tensor]:
    """Return ``x.split(sizes, dim)``; a single piece is x itself: not every transform knows a view of all of it."""
    return x.split(sizes, dim) if len(sizes) > 1 else [x]


def reduced_rows(x: Tensor, parts: Parts) -> Tensor:
    """Return ``x A^T`` of all parts, ``(N, sum of r)``, of what the masks leave of x ``(N, in)``."""
    if not parts.masks:
        return x @ parts.stacked.t()
    a, low = pieces_of(parts.stacked, parts.sizes), []
    for block in blocks(len(x), BLOCK):
        kept = kept_in(block, parts.masks, parts.stacked)
        low.append(torch.cat([(x[block] * keep) @ own.t() for keep, own in zip(kept, a, strict=True)], dim=-1))
    return torch.cat(low)


def plain_change(x: Tensor, width: int, places: Places, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is added, ``(N, width)``, and ``x A^T``, by operations that every transform knows.

    ``tensors`` are each A, each B, and the masks.
    """
    parts = parts_of(places, tensors)
    low = reduced_rows(x, parts)
    pieces, end = [], 0
    for (first, stop, _), own, b in zip(places, pieces_of(low, parts.ranks, dim=-1), parts.b, strict=True):
        pieces += [x.new_zeros(len(x), first - end), own @ b.t()]
        end = stop
    return torch.cat([*pieces, x.new_zeros(len(x), width - end)], dim=-1), low


class _LowRankSum(torch.autograd.Function):
    """:func:`low_rank_sum` of rows ``(N, in)``; gives ``x A^T`` besides, for the gradient."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, places: Places, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        parts = parts_of(places, tensors)
        low = reduced_rows(x, parts)
        y = F.linear(x, weight, bias)
        for (first, stop, _), own, b in zip(places, pieces_of(low, parts.ranks, dim=-1), parts.b, strict=True):
            y[:, first:stop].addmm_(own, b.t())
        return y, low

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, ctx.places, *tensors = inputs
        low, k = output[1], len(ctx.places)
        _, needs_weight, _, _, *needs = ctx.needs_input_grad
        ctx.mark_non_differentiable(low)
        kept = x if needs_weight or any(needs[:k]) else None
        ctx.save_for_backward(kept, weight, low if any(needs[k:]) else None, *tensors)
        ctx.save_for_forward(x, weight, low, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, low, *tensors = ctx.saved_tensors
        parts, k = parts_of(ctx.places, tensors), len(ctx.places)
        needs_x, needs_weight, needs_bias, _, *needs = ctx.needs_input_grad
        further = torch.is_grad_enabled()  # The gradient is to be differentiated, and what was kept has no graph.
        whole = k == 1 and ctx.places[0][:2] == (0, len(weight))
        columns = [grad if whole else grad[:, first:stop] for first, stop, _ in ctx.places]
        if low is not None and further:
            low = reduced_rows(x, parts)
        # Sums of blocks are rounded at each block: a loss in half precision. Beside a GPU's memory they gain nothing.
        by_blocks = whole and not further and grad.device.type == 'cpu' and grad.dtype not in HALF
        step = READ if by_blocks else max(len(grad), 1)
        grad_low, grad_b = factor_gradients(columns, low, parts, step)
        grad_b = [own if own is None else own.t() * place[2] for own, place in zip(grad_b, ctx.places, strict=True)]
        grad_weight = grad.t() @ x if needs_weight else None
        grad_bias = grad.sum(0) if needs_bias else None
        grad_x = grad @ weight if needs_x else None
        grad_x, grad_a = reduced_gradients(grad_x, grad_low, x if any(needs[:k]) else None, parts, not further)
        grad_a = [None] * k if grad_a is None else pieces_of(grad_a, parts.ranks)
        return grad_x, grad_weight, grad_bias, None, *grad_a, *grad_b, *(None for _ in parts.masks)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        x, weight, _, *tensors = ctx.saved_tensors
        along_x, along_weight, along_bias, _, *along = tangents
        width, places, k = len(weight), ctx.places, len(ctx.places)
        change = x.new_zeros(len(x), width)
        if along_x is not None:
            change = F.linear(along_x, weight) + plain_change(along_x, width, places, *tensors)[0]
        if along_weight is not None:
            change = change + F.linear(x, along_weight)
        if along_bias is not None:
            change = change + along_bias
        for some in (slice(0, k), slice(k, 2 * k)):  # each A, each B
            if any(way is not None for way in along[some]):
                moved = list(tensors)
                moved[some] = [torch.zeros_like(own) if way is None else way
                               for own, way in zip(tensors[some], along[some], strict=True)]
                change = change + plain_change(x, width, places, *moved)[0]
        return change, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        def plain(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
            change, low = plain_change(x, len(weight), *others)
            return F.linear(x, weight, bias) + change, low

        return torch.vmap(plain, in_dims, (0, 0))(*args), (0, 0)


def factor_gradients(
    columns: Sequence[Tensor], low: Tensor | None, parts: Parts, step: int
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the gradient of ``x A^T``, ``(N, sum of r)``, and that of each scaled B, transposed, ``(r, rows)``.

    Args:
        columns: Gradient of the output in the columns of each part, ``(N, rows)``.
        low: ``x A^T``; None where no B needs a gradient.
        parts: The parts.
        step: Number of rows at a time.
    """
    lows = [None] * len(columns) if low is None else pieces_of(low, parts.ranks, dim=-1)
    grad_low, grad_b = [], [None] * len(columns)
    for block in blocks(len(columns[0]), step):
        grad_low.append([])
        for i, (own, b, part) in enumerate(zip(columns, parts.b, lows, strict=True)):
            some = own[block] if step < len(own) else own
            grad_low[-1].append(some @ b)
            if part is not None:
                seen = (part[block] if step < len(own) else part).t()
                grad_b[i] = seen @ some if grad_b[i] is None else grad_b[i].addmm_(seen, some)
    rows = [own[0] if len(own) == 1 else torch.cat(own, dim=-1) for own in grad_low]
    return rows[0] if len(rows) == 1 else torch.cat(rows), grad_b


def reduced_gradients(
    grad_x: Tensor | None, grad_low: Tensor, x: Tensor | None, parts: Parts, in_place: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and of the stacked A from that of ``x A^T``.

    Args:
        grad_x: What reaches x through W, ``(N, in)``; None where x needs no gradient.
        grad_low: ``(N, sum of r)``.
        x: ``(N, in)``; None where A needs no gradient.
        parts: The parts.
        in_place: Whether to add to ``grad_x`` in place.
    """
    stacked = parts.stacked
    if not parts.masks:
        if grad_x is not None:
            grad_x = grad_x.addmm_(grad_low, stacked) if in_place else torch.addmm(grad_x, grad_low, stacked)
        return grad_x, None if x is None else grad_low.t() @ x
    a, grad_a = pieces_of(stacked, parts.sizes), [0] * len(parts.sizes)
    summed = torch.float32 if stacked.dtype in HALF else stacked.dtype
    for block in blocks(len(grad_low), BLOCK) if in_place else [slice(0, len(grad_low))]:
        kept, lows = kept_in(block, parts.masks, stacked), pieces_of(grad_low[block], parts.sizes, dim=-1)
        for i, (keep, own, low) in enumerate(zip(kept, a, lows, strict=True)):
            if x is not None:
                grad_a[i] = grad_a[i] + (low.t() @ (x[block] * keep)).to(summed)
            if grad_x is not None and in_place:
                grad_x[block].addcmul_(low @ own, keep)
            elif grad_x is not None:
                grad_x = torch.addcmul(grad_x, low @ own, keep)
    return grad_x, None if x is None else torch.cat(grad_a).to(stacked.dtype)
