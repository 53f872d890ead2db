"""Find the weights of attention (and of the feed-forward layers) in the state dict of any layout that we know.

Whatever the layout, the modules come out under mmpretrain's names (``layers.0.attn.qkv``,
``stages.0.blocks.0.attn.w_msa.proj``), in the order of depth, and separate q, k and v are stacked to the one fused
weight that the published rank tables are about. Two towers in one file keep apart as ``visual.`` and ``text.``.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

VIT, SWIN = 'layers.{}.', 'stages.{}.blocks.{}.'
FFN = ('ffn.layers.0.0', 'ffn.layers.1')

# (layout, pattern of the key's end, module, slot of a fused weight). The first that fits wins: timm's Swin looks like
# timm's ViT from behind. `{n}` stands for a number.
_RULES: list[tuple[str, str, str, str]] = []


def _rules(layout: str, stem: str, module: str, parts: Mapping[str, str]) -> None:
    for end, target in parts.items():
        target, _, slot = target.partition(':')
        pattern = re.escape(stem + end).replace(re.escape('{n}'), r'(\d+)')
        _RULES.append((layout, rf'(?P<prefix>(?:.*[./])?){pattern}', module + target, slot))


_QKV = {'query': 'qkv:q', 'key': 'qkv:k', 'value': 'qkv:v'}


def _separate(form: str, attn: str) -> dict[str, str]:
    return {form.format(name): attn + target for name, target in _QKV.items()}


_rules(
    'mmpretrain Swin',
    'stages.{n}.blocks.{n}.',
    SWIN,
    {
        'attn.w_msa.qkv.weight': 'attn.w_msa.qkv',
        'attn.w_msa.proj.weight': 'attn.w_msa.proj',
        'ffn.layers.0.0.weight': FFN[0],
        'ffn.layers.1.weight': FFN[1],
    },
)
_rules(
    'mmpretrain ViT',
    'layers.{n}.',
    VIT,
    {
        'attn.qkv.weight': 'attn.qkv',
        'attn.proj.weight': 'attn.proj',
        'ffn.layers.0.0.weight': FFN[0],
        'ffn.layers.1.weight': FFN[1],
    },
)
for _layout, _stem, _module, _attn in (
    ('timm Swin', 'layers.{n}.blocks.{n}.', SWIN, 'attn.w_msa.'),
    ('timm ViT', 'blocks.{n}.', VIT, 'attn.'),
):
    _rules(
        _layout,
        _stem,
        _module,
        {
            'attn.qkv.weight': _attn + 'qkv',
            'attn.proj.weight': _attn + 'proj',
            'mlp.fc1.weight': FFN[0],
            'mlp.fc2.weight': FFN[1],
        },
    )
for _layout, _stem, _module, _form, _attn in (
    ('HF Swin', 'encoder.layers.{n}.blocks.{n}.', SWIN, 'attention.self.{}.weight', 'attn.w_msa.'),
    ('HF ViT', 'encoder.layer.{n}.', VIT, 'attention.attention.{}.weight', 'attn.'),
):
    _rules(
        _layout,
        _stem,
        _module,
        {
            **_separate(_form, _attn),
            'attention.output.dense.weight': _attn + 'proj',
            'intermediate.dense.weight': FFN[0],
            'output.dense.weight': FFN[1],
            'mlp.fc1.weight': FFN[0],  # DINOv2
            'mlp.fc2.weight': FFN[1],
        },
    )
for _layout, _block, _module, _attention, _out, _attn in (
    ('HF Swin', 'encoder.layers.{n}.blocks.{n}.', SWIN, 'attention.', 'o_proj', 'attn.w_msa.'),
    ('HF ViT', 'layers.{n}.', VIT, 'attention.', 'o_proj', 'attn.'),
    ('HF CLIP', 'layers.{n}.', VIT, 'self_attn.', 'out_proj', 'attn.'),
):
    _rules(
        _layout,
        _block,
        _module,
        {
            _attention + 'q_proj.weight': _attn + 'qkv:q',
            _attention + 'k_proj.weight': _attn + 'qkv:k',
            _attention + 'v_proj.weight': _attn + 'qkv:v',
            _attention + f'{_out}.weight': _attn + 'proj',
            'mlp.fc1.weight': FFN[0],
            'mlp.fc2.weight': FFN[1],
        },
    )
_rules(
    'OpenAI CLIP',
    'resblocks.{n}.',
    VIT,
    {
        'attn.in_proj_weight': 'attn.qkv',
        'attn.out_proj.weight': 'attn.proj',
        'mlp.c_fc.weight': FFN[0],
        'mlp.c_proj.weight': FFN[1],
    },
)
_rules(
    'Google ViT .npz',
    'encoderblock_{n}/',
    VIT,
    {
        **_separate('MultiHeadDotProductAttention_1/{}/kernel', 'attn.'),
        'MultiHeadDotProductAttention_1/out/kernel': 'attn.proj',
        'MlpBlock_3/Dense_0/kernel': FFN[0],
        'MlpBlock_3/Dense_1/kernel': FFN[1],
    },
)
_COMPILED = [(layout, re.compile(pattern), module, slot) for layout, pattern, module, slot in _RULES]


def _from_google(weight: Tensor, module: str) -> Tensor:
    """Turn a kernel, ``(in, heads, head)`` or ``(heads, head, out)`` or ``(in, out)``, into ``(out, in)``."""
    flat = weight.flatten(0, 1) if module.endswith('proj') else weight.flatten(1)
    return flat.T if weight.ndim == 3 else weight.T


_ADJUST: dict[str, Callable[[Tensor, str], Tensor]] = {'Google ViT .npz': _from_google}


def find_linear_weights(state_dict: Mapping[str, Tensor], ffn: bool = False) -> tuple[dict[str, Tensor], set[str]]:
    """Find the attention weights, and with ``ffn`` those of the feed-forward layers.

    Args:
        state_dict: Weights by their names in the file.
        ffn: Whether to return the feed-forward layers too.

    Returns:
        ``{module: (out, in)}`` under mmpretrain's names in the order of depth, and the layouts that were seen. Both
        are empty where nothing is known.

    Raises:
        ValueError: One of q, k and v of a module is missing.
    """
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    layouts = set()
    for key, tensor in state_dict.items():
        for layout, pattern, module, slot in _COMPILED:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            name = module.format(*(g for g in match.groups()[1:]))
            if ffn or '.ffn.' not in name:
                layouts.add(layout)
                weight = _ADJUST[layout](tensor, name) if layout in _ADJUST else tensor
                found.setdefault(match['prefix'], {}).setdefault(name, {})[slot] = weight
            break
    weights = {
        tower + name: _fuse(parts, prefix + name)
        for prefix, tower in _towers(list(found)).items()
        for name, parts in found[prefix].items()
    }
    return {name: weights[name] for name in sorted(weights, key=_depth_order)}, layouts


def _fuse(parts: Mapping[str, Tensor], name: str) -> Tensor:
    if set(parts) == {''}:
        return parts['']
    missing = [slot for slot in 'qkv' if slot not in parts]
    if missing:
        raise ValueError(f'{name}: the weights of {missing} are missing in the checkpoint')
    return torch.cat([parts[slot] for slot in 'qkv'])


def _towers(prefixes: list[str]) -> dict[str, str]:
    """Return the prefixes to read and what stands for them: the backbone alone where there is one, else each tower."""
    if len(prefixes) <= 1:
        return dict.fromkeys(prefixes, '')
    for own in ('', 'backbone.'):
        if own in prefixes and not any(re.search('visual|vision', prefix) for prefix in prefixes):
            return {own: ''}
    towers = {
        prefix: 'visual.' if re.search('visual|vision', prefix) else 'text.' if _is_text(prefix) else prefix
        for prefix in prefixes
    }
    shared = {tower for tower in towers.values() if list(towers.values()).count(tower) > 1}
    return {prefix: prefix if tower in shared else tower for prefix, tower in towers.items()}


def _is_text(prefix: str) -> bool:
    return prefix in ('', 'transformer.', 'module.transformer.') or 'text' in prefix


def _depth_order(name: str) -> tuple:
    """Order by numbers where there are numbers, and qkv, proj, ffn within a block."""
    parts = tuple((0, int(p), '') if p.isdigit() else (1, 0, p) for p in name.split('.'))
    kind = 0 if name.endswith('qkv') else 1 if name.endswith('proj') else 2
    numbers = tuple(p[1] for p in parts if p[0] == 0)[: 2 if 'stages.' in name else 1]
    return (name.startswith('text.'), numbers, kind, parts)
