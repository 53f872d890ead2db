"""What attention of several heads computes between its projections, as ``nn.MultiheadAttention`` defines it.

Axes: ``N`` batch, ``L`` queries, ``S`` keys, ``H`` heads, ``D`` width of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def check_inputs(query: Tensor, key: Tensor, value: Tensor, batch_first: bool = False) -> None:
    """Check what can be said of inputs without their widths.

    Raises:
        ValueError: One is a nested tensor, they have not two or three axes all, or their lengths or batches differ.
    """
    if query.is_nested or key.is_nested or value.is_nested:
        raise ValueError(
            'adapted attention takes no nested tensors: pad them, or set use_nested_tensor = False of the '
            'nn.TransformerEncoder that makes them'
        )
    if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
        raise ValueError(
            'query, key and value must all be (length, width), or all three with a batch axis, got '
            f'{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}'
        )
    batch = 0 if batch_first else 1
    if key.shape[:-1] != value.shape[:-1] or (query.dim() == 3 and query.shape[batch] != key.shape[batch]):
        raise ValueError(
            'key and value must be of the same length, and all inputs of the same batch (axis '
            f'{batch}), got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}'
        )


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``F.linear(x, weight, bias)`` as one matrix product, however the axes of x lie in memory.

    PyTorch multiplies a transposed ``(N, L, E)`` by as many copies of the weight as it has batches otherwise, which
    takes twice the time on a CPU.
    """
    return F.linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))


def additive(mask: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return a mask that is added to the scores: minus infinity where a boolean one is True.

    Args:
        mask: Boolean, where True forbids, or floating, which is added as it is.
        dtype: Type of the scores.
        name: What a message calls it.

    Raises:
        TypeError: The mask is neither boolean nor floating.
    """
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise TypeError(f'{name} must be boolean or floating, got {mask.dtype}')
    return mask.to(dtype)


def causal_mask(length: int, keys: int, like: Tensor) -> Tensor:
    """Return the additive mask ``(length, keys)`` in which no query sees a later key, in the type of ``like``."""
    forbidden = torch.ones(length, keys, dtype=torch.bool, device=like.device).triu(1)
    return additive(forbidden, like.dtype, 'the causal mask')


def joint_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> Tensor | None:
    """Return one additive mask that broadcasts to ``(N, H, L, S)``, or None where nothing is masked.

    Args:
        attn_mask: ``(L, S)`` or ``(N * H, L, S)``.
        key_padding_mask: ``(N, S)``; what it forbids is forbidden to every query.
        shape: N, H, L and S.
        dtype: Type of the scores.

    Raises:
        ValueError: A mask has another shape.
        TypeError: A mask is neither boolean nor floating.
    """
    n, heads, length, keys = shape
    joint = None
    if attn_mask is not None:
        if attn_mask.shape not in ((length, keys), (n * heads, length, keys)):
            raise ValueError(
                f'attn_mask must be {(length, keys)} or {(n * heads, length, keys)}, got {tuple(attn_mask.shape)}'
            )
        joint = additive(attn_mask, dtype, 'attn_mask')
        joint = joint.view(n, heads, length, keys) if joint.dim() == 3 else joint.view(1, 1, length, keys)
    if key_padding_mask is not None:
        if key_padding_mask.shape != (n, keys):
            raise ValueError(f'key_padding_mask must be {(n, keys)}, got {tuple(key_padding_mask.shape)}')
        padding = additive(key_padding_mask, dtype, 'key_padding_mask').view(n, 1, 1, keys)
        joint = padding if joint is None else joint + padding
    return joint


def appended(x: Tensor, learned: Tensor | None, zero: bool) -> Tensor:
    """Return keys or values ``(N, S, E)`` with the learned one ``(1, 1, E)`` and zeros behind them, where there are."""
    if learned is not None:
        x = torch.cat([x, learned.to(x.dtype).expand(len(x), 1, -1)], dim=1)
    return F.pad(x, (0, 0, 0, 1)) if zero else x


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout: float, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the attended values ``(N, H, L, D)`` and, if asked for, the weights ``(N, H, L, S)``.

    Without weights the fused kernel is used, which never holds them. Under dropout the weights returned are those that
    were applied, as in ``nn.MultiheadAttention``.

    Args:
        q: ``(N, H, L, D)``.
        k: ``(N, H, S, D)``.
        v: ``(N, H, S, D)``.
        mask: Additive, broadcasts to ``(N, H, L, S)``.
        is_causal: Whether the mask is the causal one, to be applied without forming it; ``mask`` must be None then.
        dropout: Probability of dropping a weight.
        need_weights: Whether to return the weights.
    """
    if not need_weights:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal), None
    if is_causal:
        mask = causal_mask(q.shape[2], k.shape[2], q)
    scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(-2, -1)  # (N, H, L, D) @ (N, H, D, S)
    weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
    weights = F.dropout(weights, dropout) if dropout else weights
    return weights @ v, weights
