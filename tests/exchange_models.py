"""The same tiny ViT here and in other libraries, with 12 blocks, and LoRAs for it."""

import pytest
import torch
import torch.nn as nn
from mmengine.registry import DefaultScope

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.adapters.lora_weights import Pair
from mmlora.io.convert import convert
from mmlora.registry import MODELS

DEPTH, WIDTH = 12, 24  # Block 1 and block 11 must not be taken for each other.
ARCH = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=2, feedforward_channels=48)
CLIP = dict(pre_norm=True, norm_cfg=dict(type='LN', eps=1e-5))
ENDS = ('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1')


def timm_vit():
    timm = pytest.importorskip('timm')
    return timm.create_model('vit_tiny_patch16_224', img_size=32, embed_dim=WIDTH, num_heads=2, depth=DEPTH,
                             mlp_ratio=2, num_classes=3)


def hf_sizes(**more) -> dict:
    return dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, intermediate_size=48, image_size=32,
                patch_size=16, **more)


def hf_vit():
    transformers = pytest.importorskip('transformers', minversion='5')
    return transformers.ViTModel(transformers.ViTConfig(**hf_sizes(layer_norm_eps=1e-6)), add_pooling_layer=False)


def hf_clip():
    transformers = pytest.importorskip('transformers', minversion='5')
    text = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20)
    vision = hf_sizes(hidden_act='gelu')
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def hf_clip_vision():
    transformers = pytest.importorskip('transformers', minversion='5')
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**hf_sizes(hidden_act='gelu')))


def open_clip():
    kind = pytest.importorskip('open_clip.transformer').VisionTransformer
    model = nn.Module()
    model.visual = kind(image_size=32, patch_size=16, width=WIDTH, layers=DEPTH, heads=2, mlp_ratio=2, output_dim=WIDTH)
    with torch.no_grad():
        model.visual.proj.copy_(torch.eye(WIDTH))  # So that features are those before the projection.
    return model


THEIRS = {
    'timm': (timm_vit, 'blocks.{}.', lambda m, x: m.forward_features(x)[:, 0], {}),
    'hf': (hf_vit, 'layers.{}.', lambda m, x: m(x).last_hidden_state[:, 0], {}),
    'hf_clip': (hf_clip, 'vision_model.encoder.layers.{}.', lambda m, x: m.vision_model(x).pooler_output, CLIP),
    'hf_clip_vision': (hf_clip_vision, 'encoder.layers.{}.', lambda m, x: m(x).pooler_output, CLIP),
    'open_clip': (open_clip, 'visual.transformer.resblocks.{}.', lambda m, x: m.visual(x), CLIP),
}


def vit(depth=2, **more):
    return dict(type='VisionTransformer', arch=dict(ARCH, num_layers=depth), img_size=32, patch_size=16, **more)


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    model.eval()  # Which gives None in mmpretrain's backbones.
    return model


def pair_of_models(library):
    torch.manual_seed(0)
    make, _, features, more = THEIRS[library]
    theirs, ours = make().eval(), build(vit(DEPTH, **more))
    state = theirs.state_dict()
    own = convert({k: v for k, v in state.items() if not k.startswith('text') and 'logit_scale' not in k}).backbone
    ours.load_state_dict({k: v for k, v in own.items() if k in ours.state_dict()})
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x)[-1], features(theirs, x), atol=1e-5, rtol=1e-5)
    return theirs, ours, x


def draw(rank, rule, slices='qv', ends=ENDS, width=WIDTH, blocks=(0, 1)):
    """Draw a LoRA; ``rank(block, number of the layer or slice)``."""
    weights = {}
    for block in blocks:
        for end in ends:
            rows, cols = (2 * width if end.endswith('0.0') else width), (2 * width if end.endswith('.1') else width)
            for number, part in enumerate(slices if 'qkv' in end else ['']):
                r = rank(block, len(weights) + number)
                weights[f'layers.{block}.{end}', part] = Pair(
                    torch.randn(r, cols) / 4, torch.randn(rows, r) / 4, rule(r))
    return weights
