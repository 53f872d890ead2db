"""Tiny models of other libraries with random weights: what the tests of conversion load."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn

WIDTH, DEPTH, HEADS, SIZE, PATCH = 48, 2, 3, 32, 8
VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, feedforward_channels=4 * WIDTH),
    img_size=SIZE,
    patch_size=PATCH,
)
SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=12, depths=[2, 2, 1], num_heads=[2, 4, 4]),
    img_size=SIZE,
    patch_size=2,
    window_size=4,
    out_indices=(2,),
    norm_cfg=dict(type='LN', eps=1e-5),
)
CLIP = dict(
    VIT,
    pre_norm=True,
    norm_cfg=dict(type='LN', eps=1e-5),
    layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU')),
)
HF_VIT = dict(
    hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
    image_size=SIZE, patch_size=PATCH,
)  # fmt: skip
HF_SWIN = dict(
    image_size=SIZE, patch_size=2, embed_dim=12, depths=[2, 2, 1], num_heads=[2, 4, 4], window_size=4,
    drop_path_rate=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One way to name weights: a model of another library, the file it writes, and mmpretrain's config for it.

    Attributes:
        layout: The row of the table that must be told.
        build: Returns the model and a function from images to the feature of each.
        config: The backbone of mmpretrain.
        rename: Turns the state dict into what a file of this layout holds.
        dropped: Number of keys that are left out knowingly.
    """

    layout: str
    build: Callable[[], tuple[nn.Module, Callable]]
    config: dict[str, Any] = field(default_factory=lambda: VIT)
    rename: Callable[[dict], dict] = lambda state: state
    dropped: int = 0


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter values that matter: no zero biases, no unit norms."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((0.1 * noise + (1 if parameter.ndim == 1 else 0)).to(parameter.dtype))
    return model.eval()


def timm_vit(**options: Any) -> tuple[nn.Module, Callable]:
    """timm's ViT; its feature is that of the class token, or the mean."""
    models = pytest.importorskip('timm.models.vision_transformer')
    base = dict(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=5)
    model = randomise(models.VisionTransformer(**{**base, **options}))
    return model, lambda x: model.forward_head(model.forward_features(x), pre_logits=True)


def timm_clip() -> tuple[nn.Module, Callable]:
    """A vision tower of CLIP in timm."""
    layers = pytest.importorskip('timm.layers')
    return timm_vit(pre_norm=True, act_layer=layers.QuickGELU, norm_layer=nn.LayerNorm, num_classes=0)


def timm_swin() -> tuple[nn.Module, Callable]:
    """timm's Swin."""
    models = pytest.importorskip('timm.models.swin_transformer')
    model = randomise(models.SwinTransformer(
        img_size=SIZE, patch_size=2, embed_dim=12, depths=(2, 2, 1), num_heads=(2, 4, 4), window_size=4, num_classes=5,
        drop_path_rate=0.0))  # fmt: skip
    return model, lambda x: model.forward_head(model.forward_features(x), pre_logits=True)


def hf(name: str, **options: Any) -> Callable[[], tuple[nn.Module, Callable]]:
    """A model of transformers; its feature is that of the class token, or the pooled one of Swin and CLIP."""

    def build() -> tuple[nn.Module, Callable]:
        transformers = pytest.importorskip('transformers')
        config = getattr(transformers, name.removesuffix('Model') + 'Config')(**options)
        model = randomise(getattr(transformers, name)(config))
        if name == 'CLIPModel':
            vision = model.vision_model
            return model, lambda x: vision(x).pooler_output
        if name.startswith(('Swin', 'CLIP')):
            return model, lambda x: model(x).pooler_output
        return model, lambda x: model(x).last_hidden_state[:, 0]

    return build


def open_clip(**options: Any) -> tuple[nn.Module, Callable]:
    """A CLIP of open_clip; its feature is the image embedding before the projection."""
    models = pytest.importorskip('open_clip.model')
    vision = models.CLIPVisionCfg(
        layers=DEPTH, width=WIDTH, head_width=WIDTH // HEADS, patch_size=PATCH, image_size=SIZE)  # fmt: skip
    text = models.CLIPTextCfg(context_length=16, vocab_size=64, width=32, heads=2, layers=2)
    model = randomise(getattr(models, options.get('kind', 'CLIP'))(
        embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=True))  # fmt: skip
    visual = model.visual

    def feature(x: torch.Tensor) -> torch.Tensor:
        kept, visual.proj = visual.proj, None
        out = visual(x)
        visual.proj = kept
        return out

    return model, feature


def old_hf_vit(state: dict) -> dict:
    """Return the names of transformers 4."""
    words = {'layers.': 'encoder.layer.', 'mlp.fc1': 'intermediate.dense', 'mlp.fc2': 'output.dense', **_OLD_ATTENTION}
    return {_replace(key, words): value for key, value in state.items()}


def old_hf_dinov2(state: dict) -> dict:
    """Return the names of transformers 4 for DINOv2."""
    return {_replace(key, _OLD_ATTENTION): value for key, value in state.items()}


def old_hf_swin(state: dict) -> dict:
    """Return the names of transformers 4 for Swin, as a classifier has them."""
    words = {
        'attention.relative_position_bias.': 'attention.self.', 'attention.o_proj': 'attention.output.dense',
        'mlp.fc1': 'intermediate.dense', 'mlp.fc2': 'output.dense',
        **{f'attention.{n[0]}_proj': f'attention.self.{n}' for n in ('query', 'key', 'value')},
    }  # fmt: skip
    return {'swin.' + _replace(key, words): value for key, value in state.items()}


_OLD_ATTENTION = {
    'attention.o_proj': 'attention.output.dense',
    **{f'attention.{n[0]}_proj': f'attention.attention.{n}' for n in ('query', 'key', 'value')},
}


def _replace(key: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        key = key.replace(old, new)
    return key


def official_swin(state: dict) -> dict:
    """Return the official names: a merge ends a stage; buffers are saved; the classifier is ``head``."""
    out = {}
    for key, value in state.items():
        if '.downsample.' in key:
            stage = int(key.split('.')[1])
            key = key.replace(f'layers.{stage}', f'layers.{stage - 1}')
        out[key.replace('head.fc', 'head')] = value
    out['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 16, 16)
    out['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(16, 16, dtype=torch.long)
    return {'model': out, 'epoch': 3}


def google(state: dict) -> dict:
    """Return what Google's ``.npz`` holds for timm's ViT."""
    arrays = {}
    for key, value in state.items():
        value = value.numpy()
        words = key.split('.')
        if key in ('cls_token', 'pos_embed'):
            arrays[{'cls_token': 'cls', 'pos_embed': 'Transformer/posembed_input/pos_embedding'}[key]] = value
        elif words[0] in ('patch_embed', 'head', 'norm'):
            kernel = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
            name = {'patch_embed': 'embedding', 'head': 'head', 'norm': 'Transformer/encoder_norm'}[words[0]]
            end = {'weight': 'scale' if words[0] == 'norm' else 'kernel', 'bias': 'bias'}[words[-1]]
            arrays[f'{name}/{end}'] = kernel
        else:
            stem = f'Transformer/encoderblock_{words[1]}/'
            inner, end = '.'.join(words[2:-1]), words[-1]
            attention = stem + 'MultiHeadDotProductAttention_1/'
            if inner.startswith('norm'):
                number = {'norm1': 0, 'norm2': 2}[inner]
                arrays[f'{stem}LayerNorm_{number}/{"scale" if end == "weight" else "bias"}'] = value
            elif inner == 'attn.qkv':
                for name, part in zip(('query', 'key', 'value'), np.split(value, 3), strict=True):
                    if end == 'weight':
                        arrays[f'{attention}{name}/kernel'] = part.T.reshape(WIDTH, HEADS, -1)
                    else:
                        arrays[f'{attention}{name}/bias'] = part.reshape(HEADS, -1)
            elif inner == 'attn.proj':
                if end == 'weight':
                    arrays[f'{attention}out/kernel'] = value.T.reshape(HEADS, -1, WIDTH)
                else:
                    arrays[f'{attention}out/bias'] = value
            else:
                number = {'mlp.fc1': 0, 'mlp.fc2': 1}[inner]
                arrays[f'{stem}MlpBlock_3/Dense_{number}/{"kernel" if end == "weight" else "bias"}'] = value.T
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def without_head(state: dict) -> dict:
    """Leave out the classifier, as self-supervised files do."""
    return {key: value for key, value in state.items() if not key.startswith('head.')}


def prefixed(prefix: str, state: dict) -> dict:
    """Put a prefix before names."""
    return {prefix + key: value for key, value in state.items()}


def dino(state: dict) -> dict:
    """Return a training checkpoint of DINO."""
    network = {**prefixed('backbone.', without_head(state)), 'head.mlp.0.weight': torch.ones(2, 2)}
    return {'student': prefixed('module.', {k: v + 1 for k, v in network.items()}), 'teacher': network, 'epoch': 1}


def mae(state: dict) -> dict:
    """Return a pre-training checkpoint of MAE."""
    extra = {'mask_token': torch.ones(1, 1, 4), 'decoder_pos_embed': torch.ones(1, 17, 4),
             'decoder_blocks.0.attn.qkv.weight': torch.ones(12, 4)}  # fmt: skip
    return {'model': {**without_head(state), **extra}}


def moco(state: dict) -> dict:
    """Return a pre-training checkpoint of MoCo v3."""
    state = {**without_head(state), 'head.0.weight': torch.ones(2, 2), 'head.1.running_mean': torch.ones(2)}
    twin = prefixed('module.momentum_encoder.', {key: value + 1 for key, value in state.items()})
    predictor = {'module.predictor.0.weight': torch.ones(2, 2)}
    return {'state_dict': {**prefixed('module.base_encoder.', state), **twin, **predictor}, 'arch': 'vit_small'}


def dinov2(state: dict) -> dict:
    """Return a file of DINOv2."""
    return {**without_head(state), 'mask_token': torch.ones(1, WIDTH)}


HF_CLIP_VISION = dict(HF_VIT, hidden_act='quick_gelu', projection_dim=16)
HF_CLIP_TEXT = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=64,
    max_position_embeddings=16, bos_token_id=62, eos_token_id=63,
)  # fmt: skip
HF_EPS = dict(VIT, norm_cfg=dict(type='LN', eps=1e-12))
DINO_V2 = dict(VIT, layer_scale_init_value=0.1)

SOURCES = {
    'timm': Source('timm', timm_vit),
    'timm with layer scale': Source('timm', lambda: timm_vit(init_values=0.1), DINO_V2),
    'timm without bias': Source('timm', lambda: timm_vit(qkv_bias=False), dict(VIT, qkv_bias=False)),
    'timm mean': Source(
        'timm', lambda: timm_vit(global_pool='avg'), dict(VIT, out_type='avg_featmap', final_norm=False)
    ),
    'timm class token without position': Source('timm', lambda: timm_vit(no_embed_class=True)),
    'timm CLIP': Source('timm', timm_clip, CLIP),
    'timm wrapped': Source('timm', timm_vit, rename=lambda state: {'state_dict': prefixed('module.', state)}),
    'google': Source('google', timm_vit, rename=google),
    'google of an optimizer': Source('google', timm_vit, rename=lambda s: prefixed('opt/target/', google(s))),
    'dino': Source('dino', timm_vit, rename=dino, dropped=1),
    'dinov2': Source('dinov2', lambda: timm_vit(init_values=0.1), DINO_V2, dinov2, dropped=1),
    'mae': Source('mae', timm_vit, rename=mae, dropped=3),
    'mocov3': Source('mocov3', timm_vit, rename=moco, dropped=2 + 32 + 1),
    'hf': Source('hf', hf('ViTModel', **HF_VIT), HF_EPS, dropped=2),
    'hf4': Source('hf4', hf('ViTModel', **HF_VIT), HF_EPS, old_hf_vit, dropped=2),
    'hf classifier': Source(
        'hf', hf('ViTModel', **HF_VIT), HF_EPS, lambda s: {**prefixed('vit.', s), 'classifier.bias': torch.ones(3)},
        dropped=2,
    ),
    'hf dinov2': Source(
        'hf-dinov2', hf('Dinov2Model', **{**HF_VIT, 'mlp_ratio': 4}), dict(DINO_V2), dropped=1
    ),
    'hf4 dinov2': Source(
        'hf4-dinov2', hf('Dinov2Model', **{**HF_VIT, 'mlp_ratio': 4}), dict(DINO_V2), old_hf_dinov2, dropped=1
    ),
    'hf dinov2 swiglu': Source(
        'hf-dinov2', hf('Dinov2Model', **{**HF_VIT, 'mlp_ratio': 4, 'use_swiglu_ffn': True}),
        dict(DINO_V2, layer_cfgs=dict(ffn_type='swiglu_fused')), dropped=1,
    ),
    'timm swin': Source('timm-swin', timm_swin, SWIN),
    'official swin': Source('swin-official', timm_swin, SWIN, official_swin, dropped=2),
    'hf swin': Source('hf-swin', hf('SwinModel', **HF_SWIN), SWIN),
    'hf4 swin': Source('hf4-swin', hf('SwinModel', **HF_SWIN), SWIN, old_hf_swin),
    'open_clip': Source('openai', open_clip, CLIP),
    'open_clip custom text': Source('open_clip-text', lambda: open_clip(kind='CustomTextCLIP'), CLIP),
    'hf clip': Source(
        'hf-clip', hf('CLIPModel', vision_config=HF_CLIP_VISION, text_config=HF_CLIP_TEXT, projection_dim=16),
        CLIP,
    ),
    'hf clip vision': Source('hf-clip-vision', hf('CLIPVisionModel', **HF_CLIP_VISION), CLIP),
}  # fmt: skip
