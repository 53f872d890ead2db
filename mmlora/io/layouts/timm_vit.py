"""Vision transformers under timm's names, and those of the self-supervised projects that build on them."""

from .base import REGISTERS, Layout, affine, rule

_BLOCK = {
    'blocks.{i}.norm1': 'layers.{i}.ln1',
    'blocks.{i}.attn.qkv': 'layers.{i}.attn.qkv',
    'blocks.{i}.attn.proj': 'layers.{i}.attn.proj',
    'blocks.{i}.norm2': 'layers.{i}.ln2',
    'blocks.{i}.mlp.fc1': 'layers.{i}.ffn.layers.0.0',
    'blocks.{i}.mlp.fc2': 'layers.{i}.ffn.layers.1',
}
_RULES = (
    rule('cls_token', 'cls_token'),
    rule('dist_token', 'dist_token'),
    rule('pos_embed', 'pos_embed'),
    *affine({'patch_embed.proj': 'patch_embed.projection', 'norm_pre': 'pre_norm', **_BLOCK}),
    rule('blocks.{i}.ls1.gamma', 'layers.{i}.attn.gamma1.weight'),
    rule('blocks.{i}.ls2.gamma', 'layers.{i}.ffn.gamma2.weight'),
    *affine({'norm': 'ln1', 'fc_norm': 'ln2'}),
)
_HEAD = affine({'head': 'head', 'pre_logits.fc': 'pre_logits'})
_SWIGLU = affine({f'blocks.{{i}}.mlp.{name}': f'layers.{{i}}.ffn.{name}' for name in ('w12', 'w3')})
_SIGNS = ('blocks.0.norm1.weight', 'blocks.0.attn.qkv.weight', 'patch_embed.proj.weight', 'pos_embed')
_REFUSES = {'reg_token|register_tokens': REGISTERS}
_MASK = {'mask_token': 'the token of masked patches'}

MAE = Layout(
    name='mae',
    title='MAE',
    rules=_RULES,
    signs=(*_SIGNS, 'decoder_pos_embed'),
    drops={r'decoder_.*': 'the decoder', **_MASK},
    resize='bicubic',
    writable=False,
)
MOCO_V3 = Layout(
    name='mocov3',
    title='MoCo v3',
    rules=_RULES,
    signs=_SIGNS,
    prefixes=('base_encoder.',),
    drops={
        r'momentum_encoder\..*': 'the momentum encoder',
        r'predictor\..*': 'the predictor',
        r'head\..*': 'the projection head',
    },
    resize='bicubic',
    writable=False,
)
DINO_V2 = Layout(
    name='dinov2',
    title='DINOv2',
    rules=(*_RULES, *_SWIGLU),
    signs=(*_SIGNS, 'blocks.0.ls1.gamma', 'mask_token'),
    prefixes=('', 'backbone.'),
    drops={**_MASK, r'(dino|ibot)_head\..*': 'the projection head'},
    refuses=_REFUSES,
    resize='dino',
)
DINO = Layout(
    name='dino',
    title='DINO',
    rules=_RULES,
    signs=_SIGNS,
    prefixes=('backbone.',),
    drops={r'head\..*': 'the projection head'},
    refuses=_REFUSES,
    resize='dino',
    writable=False,
)
TIMM = Layout(
    name='timm',
    title='timm ViT',
    rules=(*_RULES, *_HEAD),
    signs=_SIGNS,
    drops={r'head_dist\.(weight|bias)': 'the classifier of the distillation token', **_MASK},
    refuses=_REFUSES,
    resize='antialias',
)

LAYOUTS = (MAE, MOCO_V3, DINO_V2, DINO, TIMM)
