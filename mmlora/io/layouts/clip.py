"""CLIP with a vision transformer: OpenAI's names, which open_clip shares, and Hugging Face's.

The vision tower becomes the backbone. What a backbone has no place for is kept aside under stable names:
``visual_proj (D, E)``, ``logit_scale ()``, and the text tower: ``text.token_embedding.weight (V, D)``,
``text.pos_embed (L, D)``, ``text.layers.{i}.*`` as in the backbone, ``text.ln1`` (the last norm), ``text.proj (D, E)``.
"""

from .base import Layout, Rule, affine, rule, stacked
from .transforms import ROW, SAME, STACK, TOKEN, TRANSPOSE, Transform


def _openai_blocks(source: str, target: str) -> tuple[Rule, ...]:
    names = {'ln_1': 'ln1', 'attn.out_proj': 'attn.proj', 'ln_2': 'ln2', 'mlp.c_fc': 'ffn.layers.0.0',
             'mlp.c_proj': 'ffn.layers.1'}
    return (
        *affine({f'{source}.{{i}}.{name}': f'{target}.{{i}}.{own}' for name, own in names.items()}),
        rule(f'{source}.{{i}}.attn.in_proj_weight', f'{target}.{{i}}.attn.qkv.weight'),
        rule(f'{source}.{{i}}.attn.in_proj_bias', f'{target}.{{i}}.attn.qkv.bias'),
        rule(f'{source}.{{i}}.ls_1.gamma', f'{target}.{{i}}.attn.gamma1.weight'),
        rule(f'{source}.{{i}}.ls_2.gamma', f'{target}.{{i}}.ffn.gamma2.weight'),
    )


def _openai(text: str) -> tuple[Rule, ...]:
    return (
        rule('visual.class_embedding', 'cls_token', TOKEN),
        rule('visual.positional_embedding', 'pos_embed', ROW),
        *affine({'visual.conv1': 'patch_embed.projection', 'visual.ln_pre': 'pre_norm'}),
        *_openai_blocks('visual.transformer.resblocks', 'layers'),
        *affine({'visual.ln_post': 'ln1'}),
        rule('visual.proj', 'visual_proj'),
        rule('logit_scale', 'logit_scale'),
        rule('logit_bias', 'logit_bias'),
        rule(f'{text}token_embedding.weight', 'text.token_embedding.weight'),
        rule(f'{text}positional_embedding', 'text.pos_embed'),
        *_openai_blocks(f'{text}transformer.resblocks', 'text.layers'),
        *affine({f'{text}ln_final': 'text.ln1'}),
        rule(f'{text}text_projection', 'text.proj'),
    )


_SIGNS = ('visual.conv1.weight', 'visual.class_embedding', 'visual.transformer.resblocks.0.attn.in_proj_weight')
_NUMBERS = {'input_resolution|context_length|vocab_size': 'a number of the architecture', r'.*attn_mask': 'a mask'}

OPENAI_CUSTOM_TEXT = Layout(
    name='open_clip-text',
    title='open_clip with a text tower of its own (CustomTextCLIP)',
    rules=_openai('text.'),
    signs=(*_SIGNS, 'text.transformer.resblocks.0.attn.in_proj_weight'),
    drops=_NUMBERS,
    resize='antialias',
)
OPENAI = Layout(
    name='openai',
    title='OpenAI CLIP or open_clip',
    rules=_openai(''),
    signs=_SIGNS,
    drops=_NUMBERS,
    resize='antialias',
)


def _hf_tower(source: str, target: str) -> tuple[Rule, ...]:
    block, own = f'{source}encoder.layers.{{i}}.', f'{target}layers.{{i}}.'
    names = {'layer_norm1': 'ln1', 'self_attn.out_proj': 'attn.proj', 'layer_norm2': 'ln2', 'mlp.fc1': 'ffn.layers.0.0',
             'mlp.fc2': 'ffn.layers.1'}
    return (
        *stacked([f'{block}self_attn.{part}_proj' for part in 'qkv'], f'{own}attn.qkv', STACK, STACK),
        *affine({block + name: own + end for name, end in names.items()}),
    )


def _hf_vision(source: str, projection: Transform = TRANSPOSE) -> tuple[Rule, ...]:
    return (
        rule(f'{source}embeddings.class_embedding', 'cls_token', TOKEN),
        rule(f'{source}embeddings.position_embedding.weight', 'pos_embed', ROW),
        *affine({f'{source}embeddings.patch_embedding': 'patch_embed.projection'}),
        *affine({f'{source}pre_layrnorm': 'pre_norm', f'{source}post_layernorm': 'ln1'}),
        *_hf_tower(source, ''),
        rule('visual_projection.weight', 'visual_proj', projection),
    )


_HF_SIGNS = ('embeddings.class_embedding', 'embeddings.patch_embedding.weight', 'pre_layrnorm.weight',
             'encoder.layers.0.self_attn.q_proj.weight')
_HF_DROPS = {r'.*position_ids': 'a number of the architecture'}

HF = Layout(
    name='hf-clip',
    title='Hugging Face CLIP',
    rules=(
        *_hf_vision('vision_model.'),
        rule('logit_scale', 'logit_scale', SAME),
        rule('text_model.embeddings.token_embedding.weight', 'text.token_embedding.weight'),
        rule('text_model.embeddings.position_embedding.weight', 'text.pos_embed'),
        *_hf_tower('text_model.', 'text.'),
        *affine({'text_model.final_layer_norm': 'text.ln1'}),
        rule('text_projection.weight', 'text.proj', TRANSPOSE),
    ),
    signs=tuple(f'vision_model.{sign}' for sign in _HF_SIGNS),
    drops=_HF_DROPS,
)
HF_VISION = Layout(
    name='hf-clip-vision',
    title='Hugging Face CLIPVisionModel',
    rules=_hf_vision(''),
    signs=_HF_SIGNS,
    drops=_HF_DROPS,
)

LAYOUTS = (OPENAI_CUSTOM_TEXT, OPENAI, HF, HF_VISION)
