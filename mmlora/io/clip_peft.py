"""LoRA of CLIP in the terms of Hugging Face peft, on transformers' ``CLIPModel``, and back.

There q, k, v and the output of attention are linear layers, so that each pair of factors is a LoRA of its own and
nothing has to be rearranged::

    here                                              peft, behind base_model.model.
    visual.layers.3.attn.qkv.lora_A_q (r, d)          vision_model.encoder.layers.3.self_attn.q_proj.lora_A.weight
    visual.layers.3.attn.proj.lora_B (d, r)           vision_model.encoder.layers.3.self_attn.out_proj.lora_B.weight
    text.transformer.resblocks.3.attn.lora_A_q        text_model.encoder.layers.3.self_attn.q_proj.lora_A.weight
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from .peft_plain import PREFIX, check_finite, check_plain

TOWERS = {'vision': 'vision_model', 'text': 'text_model'}
PROJECTIONS = {'q': 'q_proj', 'k': 'k_proj', 'v': 'v_proj', 'o': 'out_proj'}
SCALINGS = {'alpha/r': False, 'alpha/sqrt(r)': True}
"""Rules of scaling that peft has, and its ``use_rslora`` for each."""

ONE_RANK = {'rank_pattern': 'ranks of single layers', 'alpha_pattern': 'alphas of single layers'}
"""Fields of peft that LoRACLIP has not, beside those of what is no plain LoRA."""

_KEY = re.compile(
    rf'(?:{re.escape(PREFIX)})?(vision_model|text_model)\.encoder\.layers\.(\d+)\.self_attn\.'
    r'(q_proj|k_proj|v_proj|out_proj)\.lora_([AB])(?:\.default)?\.weight'
)


class Site(NamedTuple):
    """One adapted projection: its tower (``'vision'``, ``'text'``), block and letter (q, k, v, o)."""

    tower: str
    block: int
    letter: str


Factors = Mapping[Site, tuple[Tensor, Tensor]]
"""A ``(r, d)`` and B ``(d, r)`` of each site."""


def own_name(site: Site, factor: str) -> str:
    """Return the name of a factor, ``'A'`` or ``'B'``, in ``LoRACLIPClassifier``."""
    tower, block, letter = site
    if tower == 'text':
        return f'text.transformer.resblocks.{block}.attn.lora_{factor}_{letter}'
    end = f'proj.lora_{factor}' if letter == 'o' else f'qkv.lora_{factor}_{letter}'
    return f'visual.layers.{block}.attn.{end}'


def own_tensors(factors: Factors) -> dict[str, Tensor]:
    """Return factors under the names of ``LoRACLIPClassifier``."""
    return {own_name(site, end): pair['AB'.index(end)] for site, pair in factors.items() for end in 'AB'}


def peft_tensors(factors: Factors) -> dict[str, Tensor]:
    """Return factors under the names of a file of peft."""
    return {
        f'{PREFIX}{_module(site)}.lora_{end}.weight': pair['AB'.index(end)].detach().contiguous()
        for site, pair in factors.items()
        for end in 'AB'
    }


def read_peft_tensors(tensors: Mapping[str, Tensor], where: str) -> dict[Site, tuple[Tensor, Tensor]]:
    """Return the factors of a file of peft, the vision tower last.

    Args:
        tensors: By their names in the file.
        where: Quoted in errors.

    Raises:
        ValueError: A name is none of a LoRA on the attention of transformers' ``CLIPModel``, or a factor has no partner
            or does not fit it.
    """
    check_finite(tensors, where)
    towers, letters = ({theirs: own for own, theirs in table.items()} for table in (TOWERS, PROJECTIONS))
    found: dict[Site, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(
                f'{where} holds {key}, which is no LoRA on q_proj, k_proj, v_proj or out_proj of the attention of '
                "transformers' CLIPModel: LoRACLIP adapts no other layers"
            )
        site = Site(towers[match[1]], int(match[2]), letters[match[3]])
        found.setdefault(site, {})[match[4]] = value
    pairs = {}
    for site in sorted(found, key=lambda site: (site.tower, site.block, 'qkvo'.index(site.letter))):
        pair = found[site]
        if set(pair) != {'A', 'B'}:
            raise ValueError(f'{where} has lora_{next(iter(pair))} of {_module(site)} without its partner')
        a, b = pair['A'], pair['B']
        if a.ndim != 2 or tuple(b.shape) != (a.shape[1], a.shape[0]):
            raise ValueError(f'{where}: A of {_module(site)} is {tuple(a.shape)} and B {tuple(b.shape)}, where (r, d) '
                             'and (d, r) belong together')
        pairs[site] = (a, b)
    if not pairs:
        raise ValueError(f'{where} holds no factors')
    return pairs


def describe_sites(sites: Collection[Site], where: str) -> dict[str, Any]:
    """Return ``encoder``, ``params`` and ``layers`` of ``LoRACLIP`` that adapt these projections and no others.

    Raises:
        ValueError: Blocks differ in the projections that they adapt.
    """
    by_block: dict[tuple[str, int], str] = {}
    for tower, block, letter in sites:
        by_block[tower, block] = ''.join(sorted(by_block.get((tower, block), '') + letter, key='qkvo'.index))
    kinds = set(by_block.values())
    if len(kinds) > 1:
        (first, one), (second, other) = (next((k, v) for k, v in by_block.items() if v == kind)
                                         for kind in sorted(kinds)[:2])
        raise ValueError(f'{where} adapts {one} in block {first[1]} of the {first[0]} tower and {other} in '
                         f'block {second[1]} of the {second[0]} tower: params of LoRACLIP are the same everywhere')
    layers = {tower: sorted(block for own, block in by_block if own == tower) for tower in TOWERS}
    layers = {tower: blocks for tower, blocks in layers.items() if blocks}
    return dict(encoder='both' if len(layers) == 2 else next(iter(layers)), params=list(kinds.pop()), layers=layers)


def peft_config(
    factors: Factors, alpha: float, scaling: str | float, factor: float, dropout: float | None, base: str | None
) -> dict[str, Any]:
    """Return the ``adapter_config.json`` with which peft computes the same.

    Args:
        factors: All of one rank.
        alpha: ``lora_alpha`` of the model.
        scaling: ``lora_scaling`` of the model. A rule that peft does not have is written as the alpha that gives the
            same number.
        factor: The number that multiplies B A.
        dropout: ``lora_dropout`` of the model, or None where it is not known.
        base: Name of the base model on the Hugging Face hub, or None.
    """
    rank = next(iter(factors.values()))[0].shape[0]
    alpha = alpha if scaling in SCALINGS else factor * rank
    return {
        'auto_mapping': {'base_model_class': 'CLIPModel', 'parent_library': 'transformers.models.clip.modeling_clip'},
        'base_model_name_or_path': base,
        'bias': 'none',
        'fan_in_fan_out': False,
        'inference_mode': True,
        'init_lora_weights': True,
        'lora_alpha': int(alpha) if float(alpha).is_integer() else float(alpha),
        'lora_dropout': dropout or 0.0,
        'modules_to_save': None,
        'peft_type': 'LORA',
        'r': rank,
        'target_modules': _pattern(factors),
        'task_type': None,
        'use_dora': False,
        'use_rslora': SCALINGS.get(scaling, False),
    }


def read_peft_config(config: Mapping[str, Any], factors: Factors, where: str) -> dict[str, Any]:
    """Return ``rank``, ``factor`` and the sites of a LoRA of peft as settings of ``LoRACLIP``.

    Args:
        config: The content of ``adapter_config.json``.
        factors: Those of the file beside it.
        where: Quoted in errors.

    Raises:
        ValueError: It is no LoRA, or one that LoRACLIP cannot have; the field is quoted.
    """
    check_plain(config, where, 'LoRACLIP', ONE_RANK)
    ranks = {int(a.shape[0]) for a, _ in factors.values()}
    rank, alpha = config.get('r'), config.get('lora_alpha')
    if list(ranks) != [rank]:
        raise ValueError(f'{where} has r={rank!r}, and its factors have the ranks {sorted(ranks)}')
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f'{where} has lora_alpha={alpha!r}, which must be a number')
    rule = 'alpha/sqrt(r)' if config.get('use_rslora') else 'alpha/r'
    factor = alpha / (math.sqrt(rank) if config.get('use_rslora') else rank)
    return dict(describe_sites(factors, where), rank=int(rank), alpha=float(alpha), scaling=rule, factor=factor,
                dropout=config.get('lora_dropout'))


def _module(site: Site) -> str:
    return f'{TOWERS[site.tower]}.encoder.layers.{site.block}.self_attn.{PROJECTIONS[site.letter]}'


def _pattern(sites: Collection[Site]) -> str:
    """Return a pattern for whole names of modules, which peft compares from end to end."""
    letters = '|'.join(PROJECTIONS[x] for x in 'qkvo' if any(site.letter == x for site in sites))
    towers = []
    for tower, name in TOWERS.items():
        blocks = sorted({site.block for site in sites if site.tower == tower})
        if blocks:
            towers.append(rf'{name}\.encoder\.layers\.(?:{"|".join(map(str, blocks))})')
    return rf'(?:{"|".join(towers)})\.self_attn\.(?:{letters})'
