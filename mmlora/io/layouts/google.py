"""Vision transformers as Google published them in ``.npz``: of 2020 (``imagenet21k/ViT-B_16.npz``) and of AugReg."""

from .base import Layout, Rule, rule
from .transforms import CONV, HEADS_BIAS, HEADS_IN, HEADS_OUT, SAME, TRANSPOSE, Transform

_BLOCK, _ATTENTION = 'Transformer/encoderblock_{i}/', 'Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/'


def _layer(
    source: str, target: str, weight: str = 'kernel', transform: Transform = TRANSPOSE
) -> tuple[Rule, Rule]:
    return rule(f'{source}/{weight}', f'{target}.weight', transform), rule(f'{source}/bias', f'{target}.bias')


def _qkv(end: str) -> tuple[str, ...]:
    return tuple(f'{_ATTENTION}{part}/{end}' for part in ('query', 'key', 'value'))


GOOGLE = Layout(
    name='google',
    title='Google ViT .npz',
    rules=(
        rule('cls', 'cls_token'),
        rule('Transformer/posembed_input/pos_embedding', 'pos_embed'),
        *_layer('embedding', 'patch_embed.projection', transform=CONV),
        *_layer(f'{_BLOCK}LayerNorm_0', 'layers.{i}.ln1', 'scale', SAME),
        rule(_qkv('kernel'), 'layers.{i}.attn.qkv.weight', HEADS_IN),
        rule(_qkv('bias'), 'layers.{i}.attn.qkv.bias', HEADS_BIAS),
        *_layer(f'{_ATTENTION}out', 'layers.{i}.attn.proj', transform=HEADS_OUT),
        *_layer(f'{_BLOCK}LayerNorm_2', 'layers.{i}.ln2', 'scale', SAME),
        *_layer(f'{_BLOCK}MlpBlock_3/Dense_0', 'layers.{i}.ffn.layers.0.0'),
        *_layer(f'{_BLOCK}MlpBlock_3/Dense_1', 'layers.{i}.ffn.layers.1'),
        *_layer('Transformer/encoder_norm', 'ln1', 'scale', SAME),
        *_layer('pre_logits', 'pre_logits'),  # of those of 2020
        *_layer('head', 'head'),
    ),
    signs=('embedding/kernel', f'{_BLOCK}MlpBlock_3/Dense_0/kernel'.format(i=0), 'Transformer/encoder_norm/scale'),
    prefixes=('', 'opt/target/', 'params/'),
    resize='google',
)

LAYOUTS = (GOOGLE,)
