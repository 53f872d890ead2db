"""LoRA of ``nn.MultiheadAttention``, whose projections are no layers that could be replaced one by one.

Zanella, Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR Workshops 2024, arXiv 2405.18541:
each of the chosen projections q, k, v and o (the output) becomes ``W x + b + s B A dropout(x)`` with factors and a
dropout mask of its own, and the scaling is ``alpha / sqrt(r)``.

Deviations from the published code: masks, weights, attention without bias and other widths of keys and values are
honoured there as nowhere (it drops the padding mask and the attention's own dropout); the product B A is never formed
in the forward pass; gradients are those of the changed layer without dropout too (there they are wrong at a dropout of
0); ``eval()`` never merges.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .adapted import AdaptedLayer, learned_dtype, put_back, set_aside
from .lora import add_product, check_rank, lora_change, lora_delta, make_dropout
from .low_rank import Factors, copy_factors
from .low_rank_sum import Product, low_rank_sum
from .multihead_arguments import arguments_of, shape_of
from .multihead_math import appended, attend, causal_mask, check_inputs, joint_mask, linear_rows
from .scaling import resolve_scaling

PARAMS = ('q', 'k', 'v', 'o')
_PRISTINE = {
    'in_proj_weight': '_pristine_in',
    'q_proj_weight': '_pristine_q',
    'k_proj_weight': '_pristine_k',
    'v_proj_weight': '_pristine_v',
    'out_proj.weight': '_pristine_o',
}


def check_params(params: Iterable[str]) -> tuple[str, ...]:
    """Return the chosen projections in the order q, k, v, o.

    Raises:
        ValueError: None is chosen, one is chosen twice, or one is unknown.
    """
    chosen = tuple(params)
    if not chosen or set(chosen) - set(PARAMS) or len(set(chosen)) != len(chosen):
        raise ValueError(f"params must name some of 'q', 'k', 'v' and 'o', each once, got {params!r}")
    return tuple(name for name in PARAMS if name in chosen)


class LoRAMultiheadAttention(AdaptedLayer, nn.MultiheadAttention):
    """An ``nn.MultiheadAttention`` with LoRA on chosen projections, for any place that one has.

    The frozen tensors keep their names (``in_proj_weight``, ``in_proj_bias``, ``out_proj.weight``, ...), so that a
    plain checkpoint loads. The learned ones are ``lora_A_q`` ``(r, in)``, ``lora_B_q`` ``(embed_dim, r)`` and so on.
    A fresh layer computes what the plain one does in its slow path, to rounding (1e-12 in float64). Merging keeps a
    copy of each weight that it changes.

    ``is_causal=True`` needs no ``attn_mask``: the causal mask is then meant.

    Args:
        embed_dim: As of ``nn.MultiheadAttention``, like all up to ``dtype``.
        num_heads: Number of heads.
        dropout: Of the attention weights, in training.
        bias: Whether the projections have biases.
        add_bias_kv: Whether a learned key and value is appended; frozen here.
        add_zero_attn: Whether a key and value of zeros is appended.
        kdim: Width of the keys.
        vdim: Width of the values.
        batch_first: Whether inputs are ``(N, L, E)`` instead of ``(L, N, E)``.
        device: Where the tensors lie.
        dtype: Type of the frozen tensors.
        rank: One rank for all chosen projections, or ``{projection: rank}``, which then chooses.
        params: The chosen ones among q, k, v and o.
        alpha: Numerator of the scaling.
        scaling: As in :class:`LoRALinear`.
        lora_dropout: Probability of dropping an input of A in training; each projection draws a mask of its own.
        lora_dtype: Type of the learned tensors. By default float32 over a half-precision base, else that of the base.

    Raises:
        ValueError: The rank, the projections, the scaling or the dropout are out of range.
        TypeError: A rank is not an integer.
    """

    prefix = 'lora_'

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        rank: int | Mapping[str, int] = 2,
        params: Sequence[str] = 'qkv',
        alpha: float = 1.0,
        scaling: str | float = 'alpha/sqrt(r)',
        lora_dropout: float = 0.0,
        lora_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype
        )
        # Read by nn.TransformerEncoderLayer, whose fast path would compute with the frozen weights alone.
        self._qkv_same_embed_dim = False
        chosen = check_params(rank if isinstance(rank, Mapping) else params)
        widths = dict(q=embed_dim, k=self.kdim, v=self.vdim, o=embed_dim)
        self._ranks = {
            name: check_rank(rank[name] if isinstance(rank, Mapping) else rank, widths[name], embed_dim, f' of {name}')
            for name in chosen
        }
        self.alpha, self.scaling_rule = float(alpha), scaling
        self._scalings = {name: resolve_scaling(scaling, self.alpha, r) for name, r in self._ranks.items()}
        self.lora_dropout = make_dropout(lora_dropout)
        self._prepare(lora_dtype)
        like = dict(device=self.out_proj.weight.device, dtype=self.lora_dtype)
        for name, r in self._ranks.items():
            setattr(self, f'lora_A_{name}', nn.Parameter(torch.empty(r, widths[name], **like)))
            setattr(self, f'lora_B_{name}', nn.Parameter(torch.empty(embed_dim, r, **like)))
        self.reset_adapter()

    @staticmethod
    def from_attention(attention: nn.MultiheadAttention, **kwargs: Any) -> 'LoRAMultiheadAttention':
        """Adapt an existing layer. The new layer takes over its Parameters, uncopied.

        Args:
            attention: The layer to adapt.
            **kwargs: ``rank``, ``params``, ``alpha``, ``scaling``, ``lora_dropout`` and ``lora_dtype``.

        Raises:
            TypeError: ``attention`` is not an ``nn.MultiheadAttention``, computes something else, or is adapted.
        """
        return LoRAMultiheadAttention(**arguments_of(attention), **kwargs)._take_over(attention)

    def _prepare(self, lora_dtype: torch.dtype | None = None) -> None:
        self._freeze_base()
        self.lora_dtype = lora_dtype or learned_dtype(self.out_proj.weight)
        for name in self._changed_names():
            self.register_buffer(_PRISTINE[name], None, persistent=False)
        self._set_aside: dict[str, nn.Parameter] = {}
        self.register_state_dict_post_hook(_save_frozen)

    def _changed_names(self) -> list[str]:
        """Return the names of the frozen weights that the change reaches."""
        inner = [name for name in self._ranks if name != 'o']
        if self.in_proj_weight is not None:
            names = ['in_proj_weight'] if inner else []
        else:
            names = [f'{name}_proj_weight' for name in inner]
        return names + (['out_proj.weight'] if 'o' in self._ranks else [])

    def _freeze_base(self) -> None:
        for name, parameter in self.named_parameters():
            if not name.startswith(self.prefix):
                parameter.requires_grad_(False)

    def _take_over(self, layer: nn.MultiheadAttention) -> 'LoRAMultiheadAttention':
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(self, name, parameter)
        self.out_proj = layer.out_proj
        for name, parameter in self.adapter_parameters().items():
            setattr(self, name, nn.Parameter(torch.empty_like(parameter, device=layer.out_proj.weight.device)))
        self._freeze_base()
        self.reset_adapter()
        return self.train(layer.training)

    def reset_adapter(self) -> None:
        """Draw each A from Kaiming's uniform distribution with a = sqrt(5) and set each B to zero."""
        self._refuse_if_merged('reset_adapter')
        for a, b in self.factors().values():
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            nn.init.zeros_(b)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each adapted projection."""
        return dict(self._ranks)

    @property
    def scalings(self) -> dict[str, float]:
        """Scaling of each adapted projection."""
        return dict(self._scalings)

    def factors(self) -> Factors:
        """Return ``{projection: (A, B)}`` in the order q, k, v, o."""
        return {name: (getattr(self, f'lora_A_{name}'), getattr(self, f'lora_B_{name}')) for name in self._ranks}

    @torch.no_grad()
    def set_factors(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Copy factors of the same projections and ranks into this layer.

        Raises:
            ValueError: The projections or shapes differ, or the layer is merged.
        """
        self._refuse_if_merged('set_factors')
        copy_factors(self.factors(), factors)

    def deltas(self) -> dict[str, Tensor]:
        """Return the dense change of each adapted projection, ``(embed_dim, in)``, for merging and tests."""
        return {name: lora_delta(a, b, self._scalings[name]) for name, (a, b) in self.factors().items()}

    @property
    def merged(self) -> bool:
        """Whether the weights hold the change at present."""
        return any(getattr(self, _PRISTINE[name]) is not None for name in self._changed_names())

    def plain_tensors(self) -> dict[str, Tensor]:
        """Return the changed weights by the names that they have in a plain layer, in the type of the frozen ones."""
        deltas, result = self.deltas(), {}
        for name in self._changed_names():
            weight = self._frozen(name)
            changed = weight.to(torch.promote_types(self.lora_dtype, weight.dtype))
            if name == 'in_proj_weight':
                parts = [part + deltas.get(own, 0) for own, part in zip('qkv', changed.chunk(3), strict=True)]
                result[name] = torch.cat(parts)
            else:
                result[name] = changed + deltas['o' if name == 'out_proj.weight' else name[0]]
            result[name] = result[name].to(weight.dtype)
        return result

    def _finite_tensors(self) -> dict[str, Tensor]:
        tensors = self.plain_tensors()
        if not all(torch.isfinite(value).all() for value in tensors.values()):
            raise ValueError('the change holds values that are not finite; merging it would spoil the weights')
        return tensors

    def _frozen(self, name: str) -> Tensor:
        pristine = getattr(self, _PRISTINE[name])
        return self.get_parameter(name) if pristine is None else pristine

    @torch.no_grad()
    def merge(self) -> 'LoRAMultiheadAttention':
        """Write the change into the weights; does nothing when merged already.

        Raises:
            ValueError: The change is not finite.
        """
        if self.merged:
            return self
        for name, changed in self._finite_tensors().items():
            setattr(self, _PRISTINE[name], set_aside(self, name, changed, self._set_aside))
        self._qkv_same_embed_dim = self.in_proj_weight is not None
        return self

    @torch.no_grad()
    def unmerge(self) -> 'LoRAMultiheadAttention':
        """Restore the weights bit for bit; does nothing when not merged."""
        if not self.merged:
            return self
        for name in self._changed_names():
            put_back(self, name, getattr(self, _PRISTINE[name]), self._set_aside)
            setattr(self, _PRISTINE[name], None)
        self._qkv_same_embed_dim = False
        return self

    @torch.no_grad()
    def to_plain(self) -> nn.MultiheadAttention:
        """Return a plain layer that computes the same, in the type of the frozen weights."""
        changed = self._finite_tensors()
        plain = nn.MultiheadAttention(**shape_of(self)).requires_grad_(False)
        for name, parameter in list(plain.named_parameters()):
            value = changed.get(name)
            value = self.get_parameter(name) if value is None else value
            owner, _, own = name.rpartition('.')
            setattr(plain.get_submodule(owner), own, nn.Parameter(value.to(parameter.dtype, copy=True), False))
        return plain.train(self.training)

    def _save_to_state_dict(self, *args: Any) -> None:
        super(AdaptedLayer, self)._save_to_state_dict(*args)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return q, k and v, each ``(..., embed_dim)`` with the leading axes of what it is projected from."""
        inputs = dict(q=query, k=key, v=value)
        if self.in_proj_weight is not None and query is key and key is value:
            outputs = self._joint(query)
            if outputs is not None:
                return list(outputs.chunk(3, dim=-1))
            outputs = linear_rows(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            if self.in_proj_weight is not None:
                weights = self.in_proj_weight.chunk(3)
            else:
                weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            outputs = [linear_rows(*each) for each in zip(inputs.values(), weights, biases, strict=True)]
        projected = dict(zip('qkv', outputs, strict=True))
        for name, low in self._reduced(inputs).items():
            projected[name] = add_product(projected[name], low, getattr(self, f'lora_B_{name}'), self._scalings[name])
        return list(projected.values())

    def _joint(self, x: Tensor) -> Tensor | None:
        """Return q, k and v of one input beside each other with their changes, where :func:`low_rank_sum` serves."""
        names = [] if self.merged else [name for name in 'qkv' if name in self._ranks]
        if not names:
            return None
        width, products = self.embed_dim, []
        for name in names:
            a, b = getattr(self, f'lora_A_{name}'), getattr(self, f'lora_B_{name}')
            first = 'qkv'.index(name) * width
            products.append(Product(first, first + width, a, b, self._scalings[name]))
        return low_rank_sum(x, self.in_proj_weight, self.in_proj_bias, products, self.lora_dropout, separate=True)

    def _reduced(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``A dropout(x)``, ``(..., r)``, of the adapted ones among the inputs; none while merged."""
        names = [] if self.merged else [name for name in inputs if name in self._ranks]
        dropped = {name: self.lora_dropout(inputs[name]) for name in names}
        factors = {name: getattr(self, f'lora_A_{name}') for name in names}
        if len(names) > 1 and len({id(x) for x in dropped.values()}) == 1:  # x is read once
            x, stacked = dropped[names[0]], torch.cat(list(factors.values()))
            low = x.to(stacked.dtype) @ stacked.t()
            return dict(zip(names, low.split([len(a) for a in factors.values()], dim=-1), strict=True))
        return {name: dropped[name].to(a.dtype) @ a.t() for name, a in factors.items()}

    def _added(self, y: Tensor, name: str, x: Tensor) -> Tensor:
        """Return the output ``y`` of a projection of ``x`` with the change added, where there is one to add."""
        if name not in self._ranks or self.merged:
            return y
        a, b = getattr(self, f'lora_A_{name}'), getattr(self, f'lora_B_{name}')
        return y + lora_change(self.lora_dropout(x).to(a.dtype), a, b, self._scalings[name]).to(y.dtype)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; the arguments and results are those of ``nn.MultiheadAttention``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients, which the factors would never get.
            ValueError: A mask or an input has a wrong shape, or an input is a nested tensor.
        """
        check_inputs(query, key, value, self.batch_first)
        if self.merged:
            self._refuse_if_trained()
        batched = query.dim() == 3
        q, k, v = self._project(query, key, value)
        if not batched:
            q, k, v = (x.unsqueeze(0) for x in (q, k, v))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        (n, length, _), keys, heads = q.shape, k.shape[1], self.num_heads
        more = int(self.add_zero_attn) + int(self.bias_k is not None)
        if is_causal and attn_mask is None and (key_padding_mask is not None or need_weights or more):
            attn_mask = causal_mask(length, keys, q)
        simple = is_causal and key_padding_mask is None and not need_weights and not more
        mask = None
        if not simple:
            mask = joint_mask(attn_mask, key_padding_mask, (n, heads, length, keys), q.dtype)
            mask = F.pad(mask, (0, more)) if more and mask is not None else mask
        k, v = appended(k, self.bias_k, self.add_zero_attn), appended(v, self.bias_v, self.add_zero_attn)
        q, k, v = (x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))  # (N, H, L, D)
        dropout = self.dropout if self.training else 0.0
        y, weights = attend(q, k, v, mask, simple, dropout, need_weights)
        y = y.transpose(1, 2) if self.batch_first or not batched else y.permute(2, 0, 1, 3)
        y = y.flatten(2)  # (N, L, H, D) or (L, N, H, D) -> as the query
        y = self._added(linear_rows(y, self.out_proj.weight, self.out_proj.bias), 'o', y)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y, weights

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{self.embed_dim}, num_heads={self.num_heads}, ranks={self._ranks}, scalings={self._scalings}'


def _save_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for name in module._changed_names():
        if prefix + name in state and getattr(module, _PRISTINE[name]) is not None:
            state[prefix + name] = getattr(module, _PRISTINE[name])
