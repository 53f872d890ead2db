"""The names of CLIP's tensors: OpenAI's and open_clip's on one side, those of this package on the other.

::

    OpenAI, open_clip                                 here
    visual.conv1.weight                               visual.patch_embed.projection.weight
    visual.class_embedding (D)                        visual.cls_token (1, 1, D)
    visual.positional_embedding (T, D)                visual.pos_embed (1, T, D)
    visual.ln_pre, visual.ln_post                     visual.pre_norm, visual.ln1
    visual.transformer.resblocks.N.attn.in_proj_*     visual.layers.N.attn.qkv.*
    visual.proj                                       visual_proj.proj
    transformer, token_embedding, ln_final, ...       the same below text.
    logit_scale                                       logit_scale
"""

import re
from collections.abc import Mapping

from torch import Tensor

VISION_PREFIX, TEXT_PREFIX = 'visual.', 'text.'
IGNORED = ('input_resolution', 'context_length', 'vocab_size')
"""Numbers that OpenAI's archives hold as tensors."""

_TEXT = ('transformer.', 'token_embedding.', 'ln_final.', 'positional_embedding', 'text_projection')
_WHOLE = {
    'visual.conv1.weight': 'visual.patch_embed.projection.weight',
    'visual.class_embedding': 'visual.cls_token',
    'visual.positional_embedding': 'visual.pos_embed',
    'visual.proj': 'visual_proj.proj',
    'visual.ln_pre.weight': 'visual.pre_norm.weight',
    'visual.ln_pre.bias': 'visual.pre_norm.bias',
    'visual.ln_post.weight': 'visual.ln1.weight',
    'visual.ln_post.bias': 'visual.ln1.bias',
    'logit_scale': 'logit_scale',
}
_BLOCK = {
    'attn.in_proj_weight': 'attn.qkv.weight',
    'attn.in_proj_bias': 'attn.qkv.bias',
    'attn.out_proj.weight': 'attn.proj.weight',
    'attn.out_proj.bias': 'attn.proj.bias',
    'ln_1.weight': 'ln1.weight',
    'ln_1.bias': 'ln1.bias',
    'ln_2.weight': 'ln2.weight',
    'ln_2.bias': 'ln2.bias',
    'mlp.c_fc.weight': 'ffn.layers.0.0.weight',
    'mlp.c_fc.bias': 'ffn.layers.0.0.bias',
    'mlp.c_proj.weight': 'ffn.layers.1.weight',
    'mlp.c_proj.bias': 'ffn.layers.1.bias',
}
_AXES = {'visual.cls_token': 2, 'visual.pos_embed': 1}
"""Key here -> number of leading axes of size 1 that OpenAI's tensor lacks."""


def is_openai(state: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors of a whole CLIP have OpenAI's or open_clip's names."""
    return 'visual.conv1.weight' in state and 'visual.class_embedding' in state


def convert_openai_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a CLIP under the names of this package.

    Args:
        state: A state dict with OpenAI's names; open_clip's are the same, or have the text tower below ``text.``.

    Raises:
        ValueError: A name is none of a CLIP with a vision transformer.
    """
    converted, unknown = {}, []
    for key, value in state.items():
        if key in IGNORED:
            continue
        name = _ours(key)
        if name is None:
            unknown.append(key)
            continue
        for _ in range(_AXES.get(name, 0)):
            value = value[None]
        converted[name] = value
    if unknown:
        raise ValueError(
            f'{len(unknown)} names are none of a CLIP with a vision transformer, the first: {unknown[:5]}. Other '
            'vision towers and attention pooling are not supported'
        )
    return converted


def restore_openai_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a plain CLIP of this package under OpenAI's names; the reverse of the above.

    Args:
        state: Without factors, such as :func:`mmlora.adapters.merged_state_dict` of the classifier.

    Raises:
        ValueError: A name is none of a plain CLIP.
    """
    whole = {ours: theirs for theirs, ours in _WHOLE.items()}
    block = {ours: theirs for theirs, ours in _BLOCK.items()}
    restored = {}
    for key, value in state.items():
        match = re.fullmatch(r'visual\.layers\.(\d+)\.(.+)', key)
        if key in whole:
            name = whole[key]
        elif match and match[2] in block:
            name = f'visual.transformer.resblocks.{match[1]}.{block[match[2]]}'
        elif key.startswith(TEXT_PREFIX) and key.removeprefix(TEXT_PREFIX).startswith(_TEXT):
            name = key.removeprefix(TEXT_PREFIX)
        else:
            raise ValueError(f'{key} has no name in a plain CLIP: merge the adapters first')
        restored[name] = value.reshape(value.shape[_AXES.get(key, 0) :])
    return restored


def restore_aside(aside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a conversion of weights kept aside of the vision tower, under the names of this package.

    Args:
        aside: Of :class:`mmlora.io.convert.Converted`: ``visual_proj``, ``logit_scale`` and ``text.*`` in the names of
            mmpretrain's transformer.

    Raises:
        ValueError: A name is none of a CLIP.
    """
    block = {ours: theirs for theirs, ours in _BLOCK.items()}
    whole = {'visual_proj': 'visual_proj.proj', 'logit_scale': 'logit_scale'} | {
        f'text.{name}': f'text.{own}'
        for name, own in {
            'token_embedding.weight': 'token_embedding.weight',
            'pos_embed': 'positional_embedding',
            'proj': 'text_projection',
            'ln1.weight': 'ln_final.weight',
            'ln1.bias': 'ln_final.bias',
        }.items()
    }
    restored = {}
    for key, value in aside.items():
        match = re.fullmatch(r'text\.layers\.(\d+)\.(.+)', key)
        if match and match[2] in block:
            restored[f'text.transformer.resblocks.{match[1]}.{block[match[2]]}'] = value
        elif key in whole:
            restored[whole[key]] = value
        else:
            raise ValueError(f'{key} is none of the weights of a CLIP as OpenAI has it')
    return restored


def _ours(key: str) -> str | None:
    match = re.fullmatch(r'visual\.transformer\.resblocks\.(\d+)\.(.+)', key)
    if match:
        return f'visual.layers.{match[1]}.{_BLOCK[match[2]]}' if match[2] in _BLOCK else None
    if key in _WHOLE:
        return _WHOLE[key]
    bare = key.removeprefix(TEXT_PREFIX)
    return TEXT_PREFIX + bare if bare.startswith(_TEXT) else None
