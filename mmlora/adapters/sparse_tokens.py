"""Sparse tokens: a vision transformer computes with chosen patches of each image and no others.

The sparse meta-training of LoRA-Recycle (Hu et al., CVPR 2025, section 4.3): patches are embedded and get
their positions, and those that the mask of the image leaves out are gone before the first layer. All layers then work
on fewer tokens, so time and memory fall with them.

The published code looks for patches that are not black, and needs equally many in every image. Here the mask is given,
and images may keep different numbers: shorter ones are filled up, and no token attends to what fills them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .token_sites import TokenAdapter, gather_tokens, with_class_token


def sparse_positions(keep: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return where the tokens of sparse images stand.

    Args:
        keep: bool ``(B, P)``, the patches that each image keeps; at least one of each.

    Returns:
        Positions ``(B, 1 + n)`` of the class token, 0, and of the kept patches in ascending order, n the most of any
        image, where shorter ones go on with other patches; and bool ``(B, 1 + n)``, False for those, or None where all
        images keep equally many.
    """
    counts = keep.sum(1)
    longest = int(counts.max())
    positions = with_class_token((~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest])
    if bool((counts == longest).all()):
        return positions, None
    return positions, torch.arange(longest + 1, device=keep.device) <= counts[:, None]


class SparseTokens(TokenAdapter):
    """Feed a vision transformer the class token and chosen patches of each image.

    Once attached it changes nothing by itself; forward passes inside :meth:`only` are sparse::

        sparse = SparseTokens()
        sparse.attach(model)
        with sparse.only(keep):
            features = model(images)

    An image gives the class token what it would give alone, whatever the other images of the batch keep.

    Raises:
        ValueError: On attaching, the transformer returns maps, which need all patches.
    """

    def __init__(self) -> None:
        super().__init__()
        self._keep: Tensor | None = None
        self._positions: Tensor | None = None
        self._valid: Tensor | None = None
        self._dense: list[Callable[..., Tensor]] = []

    @contextmanager
    def only(self, keep: Tensor) -> Iterator[None]:
        """Make the forward passes of a ``with`` block sparse. All of them take a batch of the same masks.

        Args:
            keep: bool ``(B, P)``, for each image of the batch the patches that it keeps, by rows.

        Raises:
            TypeError: The mask is not boolean.
            ValueError: This is not attached, a block is open already, the mask has another shape, an image keeps no
                patch, or images keep different numbers where the output depends on more than the class token.
        """
        if self._backbone is None:
            raise ValueError('SparseTokens is not attached to a model: call attach first')
        if self._keep is not None:
            raise ValueError('the blocks of SparseTokens.only cannot be nested')
        self._positions, self._valid = self._check(keep)
        self._keep = keep
        try:
            yield
        finally:
            self._keep = self._positions = self._valid = None

    def _check(self, keep: Tensor) -> tuple[Tensor, Tensor | None]:
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            raise TypeError(f'keep must be a boolean tensor, got {getattr(keep, "dtype", type(keep).__name__)}')
        if keep.ndim != 2:
            raise ValueError(f'keep must be (B, P), an image a row, got {tuple(keep.shape)}')
        empty = (~keep.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f'the masks of images {empty[:10]} keep no patch: leave these images out')
        positions, valid = sparse_positions(keep)
        if valid is not None and self._backbone.out_type != 'cls_token':
            raise ValueError(
                f'images keep different numbers of patches, and out_type={self._backbone.out_type!r} would count what '
                "fills up the shorter ones: choose out_type='cls_token' or masks of equal size"
            )
        return positions, valid

    def _add(self, backbone: nn.Module) -> None:
        if backbone.out_type == 'featmap':
            raise ValueError(
                "SparseTokens leaves no map of patches, but the backbone has out_type='featmap': choose 'cls_token', "
                "'avg_featmap' or 'raw'"
            )
        self._handles.append(backbone.layers[0].register_forward_pre_hook(self._gather))
        for layer in backbone.layers:
            dense = layer.attn.scaled_dot_product_attention
            self._dense.append(dense)
            layer.attn.scaled_dot_product_attention = partial(self._attend, dense)

    def _remove(self, backbone: nn.Module) -> None:
        for layer, dense in zip(backbone.layers, self._dense, strict=True):
            layer.attn.scaled_dot_product_attention = dense
        self._dense = []

    def _gather(self, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """Leave tokens out before the first layer, ``(B, N, D) -> (B, 1 + n, D)``."""
        if self._keep is None:
            return None
        (x,) = args
        wanted = (x.shape[0], x.shape[1] - 1)
        if self._keep.shape != wanted:
            raise ValueError(
                f'the masks are for {self._keep.shape[0]} images of {self._keep.shape[1]} patches, but the batch has '
                f'{wanted[0]} images of {wanted[1]}'
            )
        return (gather_tokens(x, self._positions.to(x.device)),)

    def _attend(self, dense: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """Attend to the tokens of the image alone. All are ``(B, H, N, d)``."""
        if self._valid is None:
            return dense(q, k, v, **kwargs)
        return dense(q, k, v, attn_mask=self._valid.to(q.device)[:, None, None], **kwargs)
