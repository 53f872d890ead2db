"""Swin transformers: timm's, the official files (and old timm), Hugging Face's of transformers 4 and 5.

All but mmpretrain concatenate the four patches of a merge, so that the weights of a merge are reordered. timm counts a
merge to the stage that it begins, the others to the stage that it ends.
"""

from collections.abc import Mapping

from .base import Layout, Rule, affine, rule, stacked
from .transforms import SAME, STACK, UNFOLD

_TABLE, _BLOCK = 'relative_position_bias_table', 'stages.{s}.blocks.{b}.'


def _merge(source: str) -> tuple[Rule, ...]:
    return (
        rule(f'{source}.norm.weight', 'stages.{s}.downsample.norm.weight', UNFOLD),
        rule(f'{source}.norm.bias', 'stages.{s}.downsample.norm.bias', UNFOLD),
        rule(f'{source}.reduction.weight', 'stages.{s}.downsample.reduction.weight', UNFOLD),
        rule(f'{source}.reduction.bias', 'stages.{s}.downsample.reduction.bias', SAME),  # of RLRR's merged weights
    )


def _microsoft(merge: str, head: str) -> tuple[Rule, ...]:
    block = 'layers.{s}.blocks.{b}.'
    layers = {
        'norm1': 'norm1',
        'attn.qkv': 'attn.w_msa.qkv',
        'attn.proj': 'attn.w_msa.proj',
        'norm2': 'norm2',
        'mlp.fc1': 'ffn.layers.0.0',
        'mlp.fc2': 'ffn.layers.1',
    }
    return (
        *affine({'patch_embed.proj': 'patch_embed.projection', 'patch_embed.norm': 'patch_embed.norm'}),
        rule('absolute_pos_embed', 'absolute_pos_embed'),
        rule(f'{block}attn.{_TABLE}', f'{_BLOCK}attn.w_msa.{_TABLE}'),
        *affine({block + name: _BLOCK + target for name, target in layers.items()}),
        *_merge(merge),
        *affine({'norm': 'norm{last}', head: 'head'}),
    )


def _hugging_face(attention: tuple[str, ...], table: str, layers: Mapping[str, str]) -> tuple[Rule, ...]:
    block = 'encoder.layers.{s}.blocks.{b}.'
    norms = {'layernorm_before': 'norm1', 'layernorm_after': 'norm2'}
    return (
        *affine({'embeddings.patch_embeddings.projection': 'patch_embed.projection'}),
        *affine({'embeddings.norm': 'patch_embed.norm'}),
        rule('embeddings.position_embeddings', 'absolute_pos_embed'),
        *stacked([block + name for name in attention[:3]], f'{_BLOCK}attn.w_msa.qkv', STACK, STACK),
        *affine({block + attention[3]: f'{_BLOCK}attn.w_msa.proj'}),
        rule(f'{block}attention.{table}.{_TABLE}', f'{_BLOCK}attn.w_msa.{_TABLE}'),
        *affine({block + name: _BLOCK + target for name, target in {**norms, **layers}.items()}),
        *_merge('encoder.layers.{s}.downsample'),
        *affine({'layernorm': 'norm{last}', 'classifier': 'head'}),
    )


_DERIVED = {r'.*relative_position_index|.*attn_mask': 'follows from the architecture'}
_MASK = {r'embeddings\.mask_token': 'the token of masked patches', r'decoder\..*': 'the decoder'}
_SIGNS = ('patch_embed.norm.weight', 'layers.0.blocks.0.attn.qkv.weight', f'layers.0.blocks.0.attn.{_TABLE}')
_HF_SIGNS = ('embeddings.norm.weight', 'embeddings.patch_embeddings.projection.weight')

OFFICIAL = Layout(
    name='swin-official',
    title='official Swin, or timm before 0.9',
    rules=_microsoft('layers.{s}.downsample', 'head'),
    signs=(*_SIGNS, 'layers.0.downsample.reduction.weight'),
    drops=_DERIVED,
    stages=True,
)
TIMM = Layout(
    name='timm-swin',
    title='timm Swin',
    rules=_microsoft('layers.{s+1}.downsample', 'head.fc'),
    signs=_SIGNS,
    drops=_DERIVED,
    stages=True,
    resize='antialias',
)
HF_4 = Layout(
    name='hf4-swin',
    title='Hugging Face Swin (names of transformers 4)',
    rules=_hugging_face(
        (*(f'attention.self.{name}' for name in ('query', 'key', 'value')), 'attention.output.dense'),
        'self',
        {'intermediate.dense': 'ffn.layers.0.0', 'output.dense': 'ffn.layers.1'},
    ),
    signs=(*_HF_SIGNS, 'encoder.layers.0.blocks.0.attention.self.query.weight'),
    prefixes=('', 'swin.'),
    drops={**_DERIVED, **_MASK},
    stages=True,
)
HF_5 = Layout(
    name='hf-swin',
    title='Hugging Face Swin (names of transformers 5)',
    rules=_hugging_face(
        tuple(f'attention.{name}_proj' for name in 'qkvo'),
        'relative_position_bias',
        {'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1'},
    ),
    signs=(*_HF_SIGNS, 'encoder.layers.0.blocks.0.attention.q_proj.weight'),
    prefixes=('', 'swin.'),
    drops={**_DERIVED, **_MASK},
    stages=True,
)

LAYOUTS = (OFFICIAL, TIMM, HF_4, HF_5)
