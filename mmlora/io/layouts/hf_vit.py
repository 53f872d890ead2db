"""Vision transformers of Hugging Face: ``ViTModel`` under the names of transformers 4 and 5, and ``Dinov2Model``."""

from collections.abc import Mapping

from .base import REGISTERS, Layout, Rule, affine, rule, stacked
from .transforms import STACK, STACK_PAIR

_DROPS = {
    r'pooler\..*': 'the pooler',
    r'embeddings\.mask_token': 'the token of masked patches',
    r'decoder\..*': 'the decoder',
}


def _rules(block: str, attention: tuple[str, ...], layers: Mapping[str, str]) -> tuple[Rule, ...]:
    """Return the rules of one generation of names.

    Args:
        block: What stands before the names of a block.
        attention: Names of q, k, v and the output projection within a block.
        layers: Other names within a block, and those of mmpretrain.
    """
    return (
        rule('embeddings.cls_token', 'cls_token'),
        rule('embeddings.position_embeddings', 'pos_embed'),
        *affine({'embeddings.patch_embeddings.projection': 'patch_embed.projection'}),
        *stacked([block + name for name in attention[:3]], 'layers.{i}.attn.qkv', STACK, STACK),
        *affine({block + attention[3]: 'layers.{i}.attn.proj'}),
        *affine({block + name: 'layers.{i}.' + target for name, target in layers.items()}),
        *affine({'layernorm': 'ln1', 'classifier': 'head'}),
    )


_OLD = (*(f'attention.attention.{name}' for name in ('query', 'key', 'value')), 'attention.output.dense')
_NEW = tuple(f'attention.{name}_proj' for name in 'qkvo')
_NORMS = {'layernorm_before': 'ln1', 'layernorm_after': 'ln2'}
_MLP = {'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1'}
_PATCHES = 'embeddings.patch_embeddings.projection.weight'

HF_4 = Layout(
    name='hf4',
    title='Hugging Face ViT (names of transformers 4)',
    rules=_rules(
        'encoder.layer.{i}.',
        _OLD,
        {**_NORMS, 'intermediate.dense': 'ffn.layers.0.0', 'output.dense': 'ffn.layers.1'},
    ),
    signs=(_PATCHES, 'encoder.layer.0.attention.attention.query.weight', 'encoder.layer.0.layernorm_before.weight'),
    prefixes=('', 'vit.'),
    drops=_DROPS,
)
HF_5 = Layout(
    name='hf',
    title='Hugging Face ViT (names of transformers 5)',
    rules=_rules('layers.{i}.', _NEW, {**_NORMS, **_MLP}),
    signs=(_PATCHES, 'layers.0.attention.q_proj.weight', 'layers.0.layernorm_before.weight'),
    prefixes=('', 'vit.'),
    drops=_DROPS,
)


def _dinov2(name: str, title: str, attention: tuple[str, ...], swiglu: tuple[Rule, ...]) -> Layout:
    block = 'encoder.layer.{i}.'
    return Layout(
        name=name,
        title=title,
        rules=(
            *_rules(block, attention, {'norm1': 'ln1', 'norm2': 'ln2', **_MLP}),
            *swiglu,
            rule(f'{block}layer_scale1.lambda1', 'layers.{i}.attn.gamma1.weight'),
            rule(f'{block}layer_scale2.lambda1', 'layers.{i}.ffn.gamma2.weight'),
        ),
        signs=(_PATCHES, f'encoder.layer.0.{attention[0]}.weight', 'encoder.layer.0.layer_scale1.lambda1'),
        prefixes=('', 'dinov2.', 'dinov2_with_registers.'),
        drops=_DROPS,
        refuses={r'embeddings\.register_tokens': REGISTERS},
    )


_FFN, _OWN_FFN = 'encoder.layer.{i}.mlp.', 'layers.{i}.ffn.'
DINO_V2_4 = _dinov2(
    'hf4-dinov2',
    'Hugging Face DINOv2 (names of transformers 4)',
    _OLD,
    affine({f'{_FFN}weights_in': f'{_OWN_FFN}w12', f'{_FFN}weights_out': f'{_OWN_FFN}w3'}),
)
DINO_V2_5 = _dinov2(
    'hf-dinov2',
    'Hugging Face DINOv2 (names of transformers 5)',
    _NEW,
    (
        *stacked([f'{_FFN}gate_proj', f'{_FFN}up_proj'], f'{_OWN_FFN}w12', STACK_PAIR, STACK_PAIR),
        *affine({f'{_FFN}down_proj': f'{_OWN_FFN}w3'}),
    ),
)

LAYOUTS = (HF_4, HF_5, DINO_V2_4, DINO_V2_5)
