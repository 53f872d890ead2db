"""A LoRA under the module names of another library, and back.

Where q, k and v are layers of their own (transformers), each slice of a fused projection is a LoRA there, and nothing
has to be stacked. Where one weight holds them (timm's ``attn.qkv``, ``in_proj_weight`` of open_clip) the slices stay
slices, which :mod:`.lora_peft` stacks as blocks.

::

    here                        'timm'                  'hf'
    layers.3.attn.qkv, 'q'      blocks.3.attn.qkv, 'q'  layers.3.attention.q_proj
    layers.3.attn.qkv, ''       blocks.3.attn.qkv, ''   none: refused
    layers.3.ffn.layers.0.0     blocks.3.mlp.fc1        layers.3.mlp.fc1
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..adapters.lora_weights import LoRAWeights, Pair, by_site
from ..fused import layout_of
from .lora_peft import ATTENTION, OUT
from .peft_config import _BLOCK, _ENDS, NAMINGS, Naming

_PROJ = {f'{part}': f'self_attn.{part}_proj' for part in 'qkv'}
_CLIP = {**_PROJ, 'proj': 'self_attn.out_proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
_OPEN_CLIP = {'qkv': f'attn{ATTENTION}', 'proj': f'attn{OUT}', 'fc1': 'mlp.c_fc', 'fc2': 'mlp.c_proj'}


@dataclass(frozen=True)
class Library:
    """Names in a library.

    Attributes:
        naming: Of the layers.
        heads: For ``'vit'`` and ``'swin'``, where the library has classifiers of them: what the names of the layers
            begin with in a classifier, and the name of its head.
    """

    naming: Naming
    heads: Mapping[str, tuple[str, str]] = field(default_factory=dict)


_HF_HEADS = {'vit': ('vit.', 'classifier'), 'swin': ('swin.', 'classifier')}
LIBRARIES: dict[str, Library] = {
    'timm': Library(NAMINGS['timm'], {'vit': ('', 'head'), 'swin': ('', 'head.fc')}),
    'hf': Library(NAMINGS['hf'], _HF_HEADS),
    'hf4': Library(NAMINGS['hf4'], _HF_HEADS),
    'hf_clip': Library(Naming('vision_model.encoder.layers.{}.', '', _CLIP)),
    'hf_clip_vision': Library(Naming('encoder.layers.{}.', '', _CLIP)),
    'open_clip': Library(Naming('visual.transformer.resblocks.{}.', '', _OPEN_CLIP)),
}
"""transformers of version 5 (``'hf'``) and 4, its ``CLIPModel``, its ``CLIPVisionModel`` of version 5, and others."""


def library_names(weights: Mapping[tuple[str, str], Pair], library: str, head: bool = False) -> LoRAWeights:
    """Return a LoRA of an OpenMMLab ViT or Swin under the names of another library.

    Args:
        weights: The LoRA.
        library: A name in :data:`LIBRARIES`.
        head: Whether the names are those of a classifier.

    Raises:
        ValueError: The library is unknown, has no name for a layer, or has q, k and v apart where the LoRA has one
            change of all three.
    """
    row = look_up_library(library)
    found: LoRAWeights = {}
    for (site, part), pair in weights.items():
        match = _BLOCK.fullmatch(site)
        family = 'swin' if match and match['stage'] else 'vit'
        end, stem = _ENDS.get(match['end']) if match else None, getattr(row.naming, family)
        if end is None or not stem:
            raise ValueError(f'{library!r} has no known name for {site}: write the folder under the names of this '
                             'package, library=None')
        stem = stem.format(*(number for number in (match['stage'], match['block']) if number))
        prefix = row.heads[family][0] if head and family in row.heads else ''
        ends = row.naming.ends
        if end in ends:
            found[prefix + stem + ends[end], part] = pair
        elif part in ends:
            found[prefix + stem + ends[part], ''] = pair
        else:
            raise ValueError(f'{library!r} has q, k and v apart, but {site} is adapted as one weight: there is no such '
                             'LoRA')
    return _whole_attention(found) if library == 'open_clip' else found


def head_name(weights: Mapping[tuple[str, str], Pair], library: str) -> str | None:
    """Return the name of the classifier head in another library, or None where it has none.

    Args:
        weights: The LoRA, under the names of this package.
        library: A name in :data:`LIBRARIES`.
    """
    swin = any(site.startswith('stages.') for site, _ in weights)
    return look_up_library(library).heads.get('swin' if swin else 'vit', (None, None))[1]


def own_names(weights: Mapping[tuple[str, str], Pair]) -> LoRAWeights:
    """Return a LoRA under the names of an OpenMMLab backbone, from those of whatever library it has.

    Raises:
        ValueError: No library names the layers so.
    """
    unknown: dict[str, list[str]] = {}
    for name, library in LIBRARIES.items():
        places = {site: _parse(library, site) for site, _ in weights}
        if all(places.values()):
            return _joined(_without_unused(weights) if name == 'open_clip' else weights, places)
        unknown[name] = [site for site, place in places.items() if place is None]
    name = min(unknown, key=lambda name: len(unknown[name]))
    most = f'; of {name!r} only these are unknown' if len(unknown[name]) < len({site for site, _ in weights}) else ''
    raise ValueError(
        f'the layers {unknown[name][:3]} have no known counterpart in an OpenMMLab ViT or Swin{most}. Names are known '
        f'of {list(LIBRARIES)}, of the blocks of the vision tower alone: leave other layers out with exclude_modules '
        'of peft, and read a CLIP with its text tower by mmlora.clip.load'
    )


def look_up_library(name: str) -> Library:
    """Return a row of :data:`LIBRARIES`.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in LIBRARIES:
        raise ValueError(f'library must be one of {list(LIBRARIES)}, or None for the names of this package, got '
                         f'{name!r}')
    return LIBRARIES[name]


def _parse(library: Library, site: str) -> tuple[str, str] | None:
    """Return our layer, and the slice of it that a layer of a library stands for, or None."""
    for family, stem in (('vit', library.naming.vit), ('swin', library.naming.swin)):
        if not stem:
            continue
        prefix = re.escape(library.heads.get(family, ('', ''))[0])
        match = re.fullmatch(rf'(?:{prefix})?' + re.escape(stem).replace(r'\{\}', r'(\d+)') + r'(?P<end>.+)', site)
        end = match and next((key for key, value in library.naming.ends.items() if value == match['end']), None)
        if end:
            own = next(name for name, key in _ENDS.items()
                       if key == ('qkv' if end in 'qkv' else end) and ('w_msa' in name or family == 'vit'
                                                                      or 'attn' not in name))
            number = match.groups()[:-1]
            place = 'layers.{}.' if family == 'vit' else 'stages.{}.blocks.{}.'
            return place.format(*number) + own, end if len(end) == 1 else ''
    return None


def _joined(weights: Mapping[tuple[str, str], Pair], places: Mapping[str, tuple[str, str]]) -> LoRAWeights:
    found = {}
    for (site, part), pair in weights.items():
        own, slice_ = places[site]
        found[own, slice_ or part] = pair
    by_site(found)
    order = {key: number for number, key in enumerate(found)}
    sites = {site: number for number, (site, _) in reversed(list(enumerate(found)))}
    return dict(sorted(found.items(), key=lambda item: (
        sites[item[0][0]], layout_of(item[0][0]).index(item[0][1]) if item[0][1] else 0, order[item[0]])))


def _without_unused(weights: Mapping[tuple[str, str], Pair]) -> LoRAWeights:
    """Leave out what peft does not compute: the change of an out_proj alone, which its attention does not look at."""
    found = dict(weights)
    for (site, part), pair in weights.items():
        if site.endswith(OUT) and not any(key.startswith(site.removesuffix(OUT) + ATTENTION) for key, _ in weights):
            if pair.b.any():
                raise ValueError(
                    f'{site}: peft does not compute with a LoRA on the out_proj of an nn.MultiheadAttention alone, and '
                    'merges it all the same, so that this file has two meanings: adapt the attention as a whole'
                )
            del found[site, part]
    return found


def _whole_attention(weights: LoRAWeights) -> LoRAWeights:
    """Give the out_proj of each attention a change of zero, as peft adapts it with in_proj."""
    found = dict(weights)
    for site, parts in by_site(weights).items():
        if site.endswith(OUT):
            raise ValueError(
                f"{site}: peft adds the change of the out_proj of an nn.MultiheadAttention twice, which is to be "
                "mended there, so that a folder would mean one thing today and another tomorrow. Adapt q, k and v "
                "alone, or write the folder for transformers' CLIP, library='hf_clip'"
            )
        if site.endswith(ATTENTION):
            first = next(iter(parts.values()))
            rank, width = sum(pair.rank for pair in parts.values()), first.a.shape[1]
            scaling = first.scaling if len({pair.scaling for pair in parts.values()}) == 1 else 1.0
            none = Pair(first.a.new_zeros(rank, width), first.a.new_zeros(width, rank), scaling)
            found[site.removesuffix(ATTENTION) + OUT, ''] = none
    return found
