"""Ways to adapt attention layers that exist: by patterns in a model, and under the name of the published code."""

from collections.abc import Sequence
from typing import Any

import torch.nn as nn

from .adapted import AdaptedLayer, replace_module
from .multihead import LoRAMultiheadAttention
from .multihead_arguments import arguments_of
from .targets import matches, select


class PlainMultiheadAttentionLoRA(LoRAMultiheadAttention):
    """:class:`LoRAMultiheadAttention` under the published name and with the published arguments.

    Args:
        existing_mha: The layer to adapt; its Parameters are taken over, uncopied.
        enable_lora: The adapted ones among q, k, v and o.
        r: Rank, at least 1.
        lora_alpha: Numerator of the scaling ``alpha / sqrt(r)``.
        dropout_rate: Of the input of A.

    Raises:
        ValueError: The rank is 0, as the published default has it, or another argument is out of range.
        TypeError: As of :meth:`LoRAMultiheadAttention.from_attention`.
    """

    def __init__(
        self,
        existing_mha: nn.MultiheadAttention,
        enable_lora: Sequence[str] = ('q', 'k', 'v', 'o'),
        r: int = 0,
        lora_alpha: float = 1,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(
            **arguments_of(existing_mha), rank=r, params=enable_lora, alpha=lora_alpha, lora_dropout=dropout_rate
        )
        self._take_over(existing_mha)


def inject_attention(
    model: nn.Module, targets: str | Sequence[str], **kwargs: Any
) -> dict[str, LoRAMultiheadAttention]:
    """Adapt the ``nn.MultiheadAttention`` layers that the patterns name, in place.

    Args:
        model: Changed in place; nothing is changed if any layer cannot be adapted.
        targets: Patterns as in :func:`mmlora.adapters.targets.matches`: names, suffixes or regular expressions.
        **kwargs: As for :meth:`LoRAMultiheadAttention.from_attention`.

    Returns:
        The adapted layers by name, in the order of the model.

    Raises:
        ValueError: A pattern means no such layer or only adapted ones, or the model itself is one.
        TypeError: A layer computes something else, or is adapted.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    if '' in found:
        raise ValueError('the model itself is an attention layer: adapt it with LoRAMultiheadAttention.from_attention')
    plain = [name for name, layer in found.items() if not isinstance(layer, AdaptedLayer)]
    for pattern in [targets] if isinstance(targets, str) else targets:
        done = [name for name in found if matches(pattern, name)]
        if done and not set(done) & set(plain):
            raise ValueError(f'pattern {pattern!r} matches no attention layer that is left to adapt: {done} are '
                             'adapted already. Start from the plain model to adapt them otherwise')
    chosen = select(targets, plain, 'attention layer')
    adapted = {name: LoRAMultiheadAttention.from_attention(found[name], **kwargs) for name in chosen}
    for name, layer in adapted.items():
        replace_module(model, found[name], layer)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # its nested tensors are for the fast path, which adapters cannot take
    return adapted
