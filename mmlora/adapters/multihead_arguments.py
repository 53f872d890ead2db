"""The arguments of an ``nn.MultiheadAttention``, read from one that is there."""

from typing import Any

import torch.nn as nn


def arguments_of(attention: nn.MultiheadAttention) -> dict[str, Any]:
    """Return what builds a layer of the same shape, without memory.

    Raises:
        TypeError: ``attention`` is not an ``nn.MultiheadAttention``, computes something else, or is adapted.
    """
    if getattr(type(attention), 'forward', None) is not nn.MultiheadAttention.forward:
        raise TypeError(
            f'can adapt layers that compute what nn.MultiheadAttention computes, got a {type(attention).__name__}'
        )
    return shape_of(attention)


def shape_of(attention: nn.MultiheadAttention) -> dict[str, Any]:
    """Return what builds a plain layer of the shape of one that may be adapted, without memory."""
    return dict(
        embed_dim=attention.embed_dim,
        num_heads=attention.num_heads,
        dropout=attention.dropout,
        bias=attention.in_proj_bias is not None,
        add_bias_kv=attention.bias_k is not None,
        add_zero_attn=attention.add_zero_attn,
        kdim=attention.kdim,
        vdim=attention.vdim,
        batch_first=attention.batch_first,
        device='meta',
        dtype=attention.out_proj.weight.dtype,
    )
