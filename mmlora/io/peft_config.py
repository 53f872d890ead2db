r"""A rank table as a LoRA configuration of Hugging Face peft, to train the same ranks there.

peft takes ranks and alphas by regular expressions for the ends of module names. The ones written here name whole
components (``blocks\.1\.attn\.qkv`` does not mean ``blocks.11``), and ``target_modules`` is made of the same ones,
so that each module gets what the table says and no other module gets anything.

peft adapts a fused qkv as one weight. What is then written is the sum of the ranks of its slices: the size at which
peft can hold every change that slices can learn, block-stacked (``A`` by rows, ``B`` as blocks). It costs more
parameters, and what it learns need not keep to the slices.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..adapters import look_up_kind
from ..adapters.scaling import resolve_scaling
from ..fused import adapted_slices, layout_of
from ..ranks import RankTable
from ..ranks.nested import Rank


@dataclass(frozen=True)
class Naming:
    """Module names of a library.

    Attributes:
        vit: Beginning of the names in a block of a ViT.
        swin: Beginning of the names in a block of a Swin, or '' where it is not known.
        ends: Ends of the names of ``proj``, ``fc1``, ``fc2`` and either ``qkv`` or each of ``q``, ``k`` and ``v``.
    """

    vit: str
    swin: str
    ends: Mapping[str, str]


_MLP = {'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
NAMINGS: dict[str, Naming] = {
    'timm': Naming('blocks.{}.', 'layers.{}.blocks.{}.', {'qkv': 'attn.qkv', 'proj': 'attn.proj', **_MLP}),
    'hf': Naming(
        'layers.{}.',
        'encoder.layers.{}.blocks.{}.',
        {**{part: f'attention.{part}_proj' for part in 'qkv'}, 'proj': 'attention.o_proj', **_MLP},
    ),
    'hf4': Naming(
        'encoder.layer.{}.',
        '',
        {
            'q': 'attention.attention.query',
            'k': 'attention.attention.key',
            'v': 'attention.attention.value',
            'proj': 'attention.output.dense',
            'fc1': 'intermediate.dense',
            'fc2': 'output.dense',
        },
    ),
}
"""Beside ``'mmpretrain'``, whose names tables have: timm, and transformers of version 5 and of version 4."""

NAMES = ('mmpretrain', *NAMINGS)

FORMS: dict[str, dict[str, Any]] = {'lora': {}, 'pissa': {'init_lora_weights': 'pissa'}, 'dora': {'use_dora': True}}
"""The kinds of adapter that peft has under ``LoraConfig``, and the arguments that ask for them there."""

_BLOCK = re.compile(r'(?P<swin>stages\.(?P<stage>\d+)\.blocks|layers)\.(?P<block>\d+)\.(?P<end>.+)')
_ENDS = {
    'attn.qkv': 'qkv',
    'attn.proj': 'proj',
    'attn.w_msa.qkv': 'qkv',
    'attn.w_msa.proj': 'proj',
    'ffn.layers.0.0': 'fc1',
    'ffn.layers.1': 'fc2',
}


def peft_config(
    table: RankTable,
    names: str = 'mmpretrain',
    alpha: float = 1.0,
    scaling: str | float = 'alpha/r',
    slices: Sequence[str] | None = 'qv',
    kind: str = 'lora',
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of ``peft.LoraConfig`` that give each module the rank and scaling of the table.

    Args:
        table: The ranks; modules of rank 0 are left out.
        names: Whose module names to write, one of :data:`NAMES`.
        alpha: ``lora_alpha`` of the adapted backbone.
        scaling: ``lora_scaling`` of the adapted backbone.
        slices: ``lora_slices`` of the adapted backbone; for modules with one rank on a fused projection.
        kind: ``kind`` of the adapted backbone. Where it is not among :data:`FORMS`, LoRA is asked for, and said so.

    Returns:
        The arguments, and what peft does not do as the table says, as sentences.

    Raises:
        ValueError: The naming is unknown or has no name for a module, the kind is unknown, or all ranks are 0.
    """
    if names not in NAMES:
        raise ValueError(f'names must be one of {NAMES}, got {names!r}')
    ranks: dict[str, int] = {}
    scalings: dict[str, float] = {}
    joint, mixed = [], []
    for module, rank in table.ranks.items():
        for target, parts in _targets(module, rank, names, slices).items():
            own = [resolve_scaling(scaling, alpha, r) for r in parts]
            key = re.escape(target)
            ranks[key] = sum(parts)
            scalings[key] = sum(r * s for r, s in zip(parts, own, strict=True)) / sum(parts)
            joint += [target] * (layout_of(module) != () and slices is not None and layout_of(target) != ())
            mixed += [target] * (len(set(own)) > 1)
    if not ranks:
        raise ValueError('all ranks are 0: there is nothing for peft to adapt')
    notes = []
    form = next((own for name, own in FORMS.items() if look_up_kind(name) is look_up_kind(kind)), None)
    if form is None:
        notes.append(f'peft is asked for LoRA of the same ranks, since kind={kind!r} is no form of its LoraConfig')
    if joint:
        notes.append(
            f'peft adapts the fused projection as one weight where the table has slices, in {len(joint)} modules, the '
            f'first: {joint[0]}. Its rank there is the sum of the ranks of the slices'
        )
    if mixed:
        notes.append(
            f'{len(mixed)} modules have slices with different scalings, the first: {mixed[0]}. peft has one scaling '
            'there: their mean, weighted by rank'
        )
    largest = max(ranks, key=ranks.get)
    config = {
        'peft_type': 'LORA',
        'r': ranks[largest],
        'lora_alpha': scalings[largest] * ranks[largest],
        'target_modules': rf'(?:.*\.)?(?:{"|".join(ranks)})',
        'rank_pattern': ranks,
        'alpha_pattern': {key: scalings[key] * rank for key, rank in ranks.items()},
        **(form or {}),
    }
    return config, notes


def _targets(module: str, rank: Rank, names: str, slices: Sequence[str] | None) -> dict[str, list[int]]:
    """Return the modules of the other library that stand for ours, and the ranks of the slices in each."""
    if isinstance(rank, Mapping):
        parts = {part: r for part, r in rank.items() if r}
    elif not rank:
        parts = {}
    else:
        parts = dict.fromkeys(adapted_slices(module, slices) or ('',), rank)
    if not parts:
        return {}
    if names == 'mmpretrain':
        return {module: list(parts.values())}
    naming, match = NAMINGS[names], _BLOCK.fullmatch(module)
    end = _ENDS.get(match['end']) if match else None
    stem = (naming.swin if match['stage'] else naming.vit) if match else ''
    if not stem or end is None:
        raise ValueError(f"{names} has no known name for {module}: write names='mmpretrain' and rename the modules")
    stem = stem.format(*(number for number in (match['stage'], match['block']) if number))
    if end in naming.ends:
        return {stem + naming.ends[end]: list(parts.values())}
    if '' in parts:
        raise ValueError(f'{names} has q, k and v apart, but {module} is adapted as one weight: there is no such LoRA')
    return {stem + naming.ends[part]: [r] for part, r in parts.items()}
