"""Token pruning: leave out the patches that the class token attends to least.

Part of LoRA-Recycle (Hu et al., CVPR 2025), eqs. 5 and 6. In a layer with ratio p that s patch tokens enter::

    h = h + Attn(LN1(h))            a = softmax(q_CLS k^T / sqrt(d)), averaged over heads, columns of the patches
    h = h[kept]                     int(s p) patches with the smallest a leave, the class token never; order is kept
    h = h + MLP(LN2(h))

Only the row of the class token is computed for ``a``, from the q and k of the layer itself (LoRA included); attention
runs as without pruning. The published code takes the residual of the MLP after LN2 in layers that prune, which changes
every token; here it is taken before, as in eq. 5 and in all other layers. So pruning in the last layer leaves the
class token as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor

from .token_sites import TokenAdapter, gather_tokens, with_class_token


@dataclass(frozen=True)
class TokenRecord:
    """What became of the tokens in one forward pass. Token 0 is that of the class, 1 the first patch, by rows.

    Attributes:
        kept: ``(B, 1 + n)`` ids of the tokens that leave the last layer, in ascending order.
        entered: ``(B, 1 + s)`` ids of the tokens that enter the last layer; more than ``kept`` where that layer prunes.
        attention: ``(B, s)`` attention of the class token to the patches that enter the last layer, in their order.
    """

    kept: Tensor
    entered: Tensor
    attention: Tensor


def class_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Return how much the class token attends to each token, averaged over heads.

    Args:
        qkv: ``(B, N, 3 D)``, what a fused projection returns; the class token comes first.
        num_heads: Heads H.

    Returns:
        ``(B, N)``, rows of which sum to 1; half precision gives float32.
    """
    batch, tokens, width = qkv.shape
    q, k, _ = qkv.reshape(batch, tokens, 3, num_heads, width // (3 * num_heads)).unbind(2)  # each (B, N, H, d)
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    scores = torch.einsum('bhd,bnhd->bhn', q[:, 0].to(dtype), k.to(dtype)) * q.shape[-1] ** -0.5
    return scores.softmax(-1).mean(1)


def kept_patches(attention: Tensor, ratio: float) -> Tensor:
    """Return the positions of the patches that stay: all but the ``int(s * ratio)`` with the smallest attention.

    Args:
        attention: ``(B, s)``; of equal values the first leave first.
        ratio: In [0, 1).

    Returns:
        ``(B, s - int(s * ratio))`` positions from 0, in ascending order.
    """
    dropped = int(attention.shape[1] * ratio)
    return attention.argsort(dim=1, stable=True)[:, dropped:].sort(dim=1).values


class TokenPruning(TokenAdapter):
    """Prune patch tokens in chosen layers of a vision transformer, and record what stays.

    Without layers it only records. While it is attached, every forward pass prunes and replaces :attr:`record`.

    Args:
        prune_layers: The layers that prune, counted from 0; negative ones from the end. No layer twice.
        prune_ratios: For each of them the part in [0, 1) of the patches still present that leaves.

    Attributes:
        record: Of the last forward pass; None before the first.

    Raises:
        TypeError: A layer is no whole number or a ratio no number.
        ValueError: The numbers of layers and ratios differ, or a ratio is out of range. On attaching: a layer does not
            exist or comes twice, or the transformer returns maps, which need all patches.
    """

    def __init__(self, prune_layers: Sequence[int] = (), prune_ratios: Sequence[float] = ()) -> None:
        super().__init__()
        self.prune_layers, self.prune_ratios = check_schedule(prune_layers, prune_ratios)
        self.record: TokenRecord | None = None
        self._ids: Tensor | None = None
        self._positions: Tensor | None = None
        self._pruned: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def _add(self, backbone: nn.Module) -> None:
        schedule = settle_schedule(self.prune_layers, self.prune_ratios, len(backbone.layers))
        if schedule and backbone.out_type == 'featmap':
            raise ValueError(
                "TokenPruning leaves no map of patches, but the backbone has out_type='featmap': choose 'cls_token', "
                "'avg_featmap' or 'raw'"
            )
        first, last = backbone.layers[0], backbone.layers[-1]
        self._handles.append(first.register_forward_pre_hook(self._begin))
        for index, layer in enumerate(backbone.layers):
            if index in schedule or layer is last:
                score = partial(self._score, schedule.get(index), layer is last, layer.attn.num_heads)
                self._handles.append(layer.attn.qkv.register_forward_hook(score))
            if index in schedule:
                self._handles.append(layer.ln2.register_forward_pre_hook(self._prune))
                self._handles.append(layer.ffn.register_forward_pre_hook(self._set_identity, with_kwargs=True))
        self._handles.append(last.register_forward_hook(self._finish))

    def _remove(self, backbone: nn.Module) -> None:
        self._ids = self._positions = self._pruned = self._last = None

    def _begin(self, layer: nn.Module, args: tuple) -> None:
        """Begin a forward pass: all tokens are there."""
        self._ids = self._positions = self._pruned = self._last = None

    @torch.no_grad()
    def _score(self, ratio: float | None, last: bool, heads: int, layer: nn.Module, args: tuple, qkv: Tensor) -> None:
        """Choose the tokens that stay, from what the projection returns."""
        attention = class_attention(qkv, heads)[:, 1:]
        if self._ids is None:
            self._ids = torch.arange(qkv.shape[1], device=qkv.device).expand(len(qkv), -1)
        if last:
            self._last = self._ids, attention
        if ratio is not None:
            self._positions = with_class_token(kept_patches(attention, ratio))

    def _prune(self, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """Leave tokens out of the sum of the layer's input and its attention, ``(B, N, D) -> (B, n, D)``."""
        (x,), positions = args, self._positions
        if positions is None:
            raise RuntimeError(
                'the projection qkv has been replaced since TokenPruning was attached: adapt the backbone first'
            )
        self._ids, self._positions = self._ids.gather(1, positions), None
        self._pruned = gather_tokens(x, positions)
        return (self._pruned,)

    def _set_identity(self, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Let the residual of the feed-forward network be that of the tokens that stay."""
        pruned, self._pruned = self._pruned, None
        if pruned is None:
            raise RuntimeError(
                'the normalisation ln2 has been replaced since TokenPruning was attached: adapt the backbone first'
            )
        return args, {**kwargs, 'identity': pruned}

    def _finish(self, layer: nn.Module, args: tuple, out: Tensor) -> None:
        if self._last is None:
            raise RuntimeError(
                'the last projection qkv has been replaced since TokenPruning was attached: adapt the backbone first'
            )
        (entered, attention), kept = self._last, self._ids
        self._ids = self._last = None
        self.record = TokenRecord(kept, entered, attention)

    def __repr__(self) -> str:
        return f'TokenPruning(prune_layers={list(self.prune_layers)}, prune_ratios={list(self.prune_ratios)})'


def check_schedule(layers: Sequence[int], ratios: Sequence[float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the layers and ratios of a schedule as plain numbers.

    Raises:
        TypeError: A layer is no whole number or a ratio no number.
        ValueError: Their numbers differ, or a ratio is out of range.
    """
    for name, values in (('prune_layers', layers), ('prune_ratios', ratios)):
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
            raise TypeError(f'{name} must be a list, got {values!r}')
    if len(layers) != len(ratios):
        raise ValueError(
            f'prune_layers={list(layers)} and prune_ratios={list(ratios)} must have the same length: a ratio a layer'
        )
    for layer in layers:
        if isinstance(layer, bool) or not hasattr(layer, '__index__'):
            raise TypeError(f'a layer that prunes must be a whole number, got {layer!r}')
    return tuple(int(layer) for layer in layers), tuple(check_ratio('prune_ratios', ratio) for ratio in ratios)


def settle_schedule(layers: Sequence[int], ratios: Sequence[float], depth: int) -> dict[int, float]:
    """Return ``{layer: ratio}`` with layers counted from 0, for a transformer of so many layers.

    Raises:
        ValueError: A layer does not exist or comes twice.
    """
    settled: dict[int, float] = {}
    for layer, ratio in zip(layers, ratios, strict=True):
        index = layer + depth if layer < 0 else layer
        if not 0 <= index < depth:
            raise ValueError(f'prune_layers={list(layers)}: there is no layer {layer}; choose from 0 to {depth - 1}')
        if index in settled:
            raise ValueError(f'prune_layers={list(layers)} names layer {index} twice')
        settled[index] = ratio
    return settled


def check_ratio(name: str, ratio: float) -> float:
    """Return a part in [0, 1) as a float.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range; 1 would leave no patch.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise TypeError(f'{name} must hold numbers, got {ratio!r}')
    if not 0 <= ratio < 1:
        raise ValueError(f'{name} must lie in [0, 1), got {ratio}: at 1 no patch would be left')
    return float(ratio)
