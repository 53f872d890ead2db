"""A LoRA in the layout of Hugging Face peft, on the plain backbone, whose module names it has, and back.

A fused projection is one layer there: the A of its slices are stacked by rows, their B lie as blocks, and zeros fill
the rest, so that the rank is the sum of those of the slices::

    lora_A.weight   [A_q]  (r_q, in)        lora_B.weight   [B_q   0 ]  (D, r_q + r_v)
                    [A_v]  (r_v, in)                        [ 0    0 ]
                                                            [ 0   B_v]
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..adapters.lora_weights import LoRAWeights, Pair, by_site
from ..fused import layout_of
from .peft_plain import MERGE, PREFIX, check_finite, check_plain, value_of

ATTENTION, OUT = '.in_proj.qkv', '.out_proj'
"""Ends of the names of the two layers of an ``nn.MultiheadAttention``, which peft adapts as one module."""

DOUBLED = ('0.21.2',)
"""Versions of peft that were seen to add the change of such an ``out_proj`` twice, in training and merging alike."""

_BASE_OUT = '.base_layer' + OUT
_KEY = re.compile(rf'(?:{re.escape(PREFIX)})?(.+)\.lora_([AB])(?:\.default)?\.weight')


def peft_tensors(sites: Mapping[str, Mapping[str, Pair]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the tensors of a file of peft, and the scaling of each layer.

    Slices of different scalings are written with a scaling of 1 and theirs in B.
    """
    tensors, scalings = {}, {}
    for site, parts in sites.items():
        values = {pair.scaling for pair in parts.values()}
        scalings[site] = values.pop() if len(values) == 1 else 1.0
        pairs = {part: (pair.a, pair.b if pair.scaling == scalings[site] else pair.b * pair.scaling)
                 for part, pair in parts.items()}
        layout = ('',) if '' in parts else layout_of(site)
        rows = next(iter(pairs.values()))[1].shape[0]
        none = next(iter(pairs.values()))[1].new_zeros(rows, 0)
        blocks = [pairs[part][1] if part in pairs else none for part in layout]
        a = torch.cat([pairs[part][0] for part in layout if part in pairs])
        stem = PREFIX + _stem(site, sites)
        tensors[f'{stem}.lora_A.weight'] = a.detach().contiguous().cpu()
        tensors[f'{stem}.lora_B.weight'] = torch.block_diag(*blocks).detach().contiguous().cpu()
    return tensors, scalings


def peft_config(sites: Mapping[str, Mapping[str, Pair]], scalings: Mapping[str, float]) -> dict[str, Any]:
    """Return the ``adapter_config.json`` with which peft computes the same."""
    totals = {site: sum(pair.rank for pair in parts.values()) for site, parts in sites.items()}
    ranks = {_module(site, sites): rank for site, rank in totals.items()}
    alphas = {_module(site, sites): scalings[site] * rank for site, rank in totals.items()}
    first = next(iter(ranks))
    return {
        'base_model_name_or_path': None,
        'bias': 'none',
        'fan_in_fan_out': False,
        'inference_mode': True,
        'init_lora_weights': True,
        'lora_alpha': alphas[first],
        'lora_dropout': 0.0,
        'modules_to_save': None,
        'peft_type': 'LORA',
        'r': ranks[first],
        'alpha_pattern': {re.escape(site): alpha for site, alpha in alphas.items() if alpha != alphas[first]},
        'rank_pattern': {re.escape(site): rank for site, rank in ranks.items() if rank != ranks[first]},
        'target_modules': list(ranks),
        'task_type': None,
        'use_dora': False,
        'use_rslora': False,
    }


def own_weights(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], slices: Mapping[str, Mapping[str, int]], where: str
) -> LoRAWeights:
    """Return the LoRA of a file of peft.

    Args:
        tensors: By their names in the file.
        config: The content of ``adapter_config.json``.
        slices: For each layer the rank of each slice, in the order of the rows; a layer that is missing has none.
        where: Quoted in errors.

    Raises:
        ValueError: It is no plain LoRA of linear layers, or does not have these slices.
    """
    check_plain(config, where)
    check_finite(tensors, where)
    factors: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or value.ndim != 2:
            raise ValueError(f'{where} holds {key[:200]} of the shape {tuple(value.shape)}, which is no factor of a '
                             f'LoRA of a linear layer: leave it out with exclude_modules of peft, or {MERGE}')
        factors.setdefault(match[1], {})[match[2]] = value
    factors = {_site(stem, factors): pair for stem, pair in factors.items()}
    unknown = sorted(set(slices) - set(factors))
    if unknown:
        raise ValueError(f'{where} lacks the factors of {unknown[:5]}')
    weights: LoRAWeights = {}
    for site in [*slices, *(name for name in factors if name not in slices)]:
        if set(factors[site]) != set('AB') or factors[site]['A'].shape[0] != factors[site]['B'].shape[1]:
            raise ValueError(f'{where}: A (r, in) and B (out, r) of {site} do not belong together')
        a, b = factors[site]['A'], factors[site]['B']
        if site != _module(site, factors) and site.endswith(OUT):
            if not b.any():  # peft adapts it beside in_proj, whether or not anybody wants that.
                continue
            b = _as_computed(b, config.get('peft_version'), f'{where}, {site}')
        parts = slices.get(site, {'': a.shape[0]})
        scaling = _scaling_of(config, _module(site, factors), a.shape[0], where)
        for part, pair in _cut(a, b, parts, scaling, site, where).items():
            weights[site, part] = pair
    by_site(weights)
    return weights


def _module(site: str, sites: Collection[str]) -> str:
    """Return the module that peft adapts to adapt a layer: an attention of torch as a whole."""
    stem = site.removesuffix(ATTENTION).removesuffix(OUT)
    return stem if stem + ATTENTION in sites else site


def _as_computed(b: Tensor, version: Any, where: str) -> Tensor:
    """Return the B of an out_proj with which a layer computes what peft does.

    Raises:
        ValueError: It is not known what this version of peft computes.
    """
    if version not in DOUBLED:
        raise ValueError(
            f'{where}: the file is of peft {version!r}, and what peft computes with the out_proj of an '
            f'nn.MultiheadAttention is known of {DOUBLED}, which adds the change twice: merge it into the weights in '
            'that version, or save it anew with one of these'
        )
    return 2 * b


def _stem(site: str, sites: Collection[str]) -> str:
    """Return what the names of the factors of a layer begin with in a file of peft."""
    module = _module(site, sites)
    return module + _BASE_OUT if site != module and site.endswith(OUT) else module


def _site(stem: str, stems: Collection[str]) -> str:
    """Return the layer whose factors begin so."""
    if stem.endswith(_BASE_OUT):
        return stem.removesuffix(_BASE_OUT) + OUT
    return stem + ATTENTION if stem + _BASE_OUT in stems else stem


def _cut(a: Tensor, b: Tensor, ranks: Mapping[str, int], scaling: float, site: str, where: str) -> dict[str, Pair]:
    """Return the blocks of a stacked pair."""
    if '' in ranks:
        return {'': Pair(a, b, scaling)}
    layout, where = layout_of(site), f'{where}, {site}'
    if not layout or set(ranks) - set(layout) or sum(ranks.values()) != a.shape[0] or b.shape[0] % len(layout):
        raise ValueError(f'{where} has a rank of {a.shape[0]}, which slices of the ranks {dict(ranks)} do not make')
    rows, start, found, rest = b.shape[0] // len(layout), 0, {}, b.clone()
    for number, part in enumerate(layout):
        if part in ranks:
            block = (slice(number * rows, (number + 1) * rows), slice(start, start + ranks[part]))
            found[part] = Pair(a[block[1]].clone(), b[block].clone(), scaling)
            rest[block] = 0
            start += ranks[part]
    if rest.any():
        raise ValueError(f'{where}: B holds more than the blocks of the slices {sorted(ranks)}, as after training in '
                         'peft: remove "slices" from mmlora.json to take it as one weight')
    return found


def _scaling_of(config: Mapping[str, Any], site: str, rank: int, where: str) -> float:
    said = value_of(config, 'r', 'rank_pattern', site, where)
    alpha = value_of(config, 'lora_alpha', 'alpha_pattern', site, where)
    if said != rank:
        raise ValueError(f'{where}: {site} has factors of rank {rank}, the config says {said}')
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f'{where}: lora_alpha of {site} is {alpha!r}, which must be a number')
    return alpha / (math.sqrt(rank) if config.get('use_rslora') else rank)
