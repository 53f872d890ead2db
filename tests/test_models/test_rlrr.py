"""The RLRR backbones: goldens of the published classes, counts, deployment and bad input."""

import copy
import json
import re

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmpretrain.models import SwinTransformer, VisionTransformer
from mmpretrain.registry import MODELS
from rlrr_names import SWIN, VIT, swin_name, vit_name

from mmlora.adapters import (
    RLRRLinear,
    ScaleShift,
    adapted_layers,
    adapter_modules,
    adapter_parameter_names,
    merge_adapters,
    merged_state_dict,
    parameter_report,
)
from mmlora.models import RLRRSwin, RLRRViT
from mmlora.models.backbones.adapt import find_adapted
from mmlora.models.backbones.skeleton import Skeleton


def read(golden, name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(golden / 'rlrr' / f'{name}.npz').items() if v.dtype.kind in 'fi'}


def part(z: dict, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in z.items() if k.startswith(prefix)}


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str = '') -> None:
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-10, msg=lambda m: f'{what}: {m}')


class TestGoldenViT:
    @pytest.fixture
    def z(self, golden):
        return read(golden, 'vit_tiny')

    @pytest.fixture
    def model(self, z):
        model = RLRRViT(**VIT).double()
        state = {}
        for key, value in part(z, 'param.').items():
            if not key.startswith('head'):
                state[vit_name(key)] = value
        for block in range(2):
            for what in ('weight', 'bias'):
                slices = [state.pop(f'layers.{block}.attn.qkv.{what}_{s}') for s in 'qkv']
                state[f'layers.{block}.attn.qkv.{what}'] = torch.cat(slices)
        own = model.state_dict()
        assert set(state) == set(own)
        model.load_state_dict({k: v.reshape(own[k].shape) for k, v in state.items()}, strict=True)
        return model

    def test_logits_features_and_gradients(self, model, z):
        head_weight, head_bias = (z[f'param.head.{w}'].clone().requires_grad_() for w in ('weight', 'bias'))
        feature = model(z['img'])[0]
        logits = F.linear(feature, head_weight, head_bias)
        close(feature, z['feat_tokens'][:, 0])
        close(logits, z['logits'])
        loss = F.cross_entropy(logits, z['label'].long())
        close(loss, z['loss'])
        loss.backward()
        grads = {k: v for k, v in part(z, 'grad.').items() if not k.startswith('head')}
        assert {vit_name(k) for k in grads} == adapter_parameter_names(model)
        for key, grad in grads.items():
            close(model.get_parameter(vit_name(key)).grad, grad, key)

    def test_merged_weights(self, model, z):
        merged, theirs = merged_state_dict(model), part(z, 'mm_merged.')
        assert set(merged) == set(theirs)
        for key, value in theirs.items():
            close(merged[key], value, key)

    def test_base_weights_load_without_a_key_map(self, model, z):
        learned = {k: v.clone() for k, v in model.state_dict().items() if k in adapter_parameter_names(model)}
        missing, unexpected = model.load_state_dict(part(z, 'mm_base.'), strict=False)
        assert set(missing) == set(learned) and not unexpected


@pytest.mark.parametrize(('name', 'place', 'prefix'), [('block', '', ''), ('attention', 'attn', 'attn.')])
def test_golden_parts_of_a_block(golden, name, place, prefix):
    z = read(golden, name)
    block = RLRRViT(**VIT).double().layers[0]

    def own_name(key: str) -> str:
        return vit_name(f'transformer.encoder.layer.0.{prefix}{key}').removeprefix('layers.0.')

    state = {own_name(key): value for key, value in part(z, 'param.').items()}
    for what in ('weight', 'bias'):
        state[f'attn.qkv.{what}'] = torch.cat([state.pop(f'attn.qkv.{what}_{s}') for s in 'qkv'])
    own = block.state_dict()
    left_out = block.load_state_dict({k: v.reshape(own[k].shape) for k, v in state.items()}, strict=False)
    assert not left_out.unexpected_keys and all(not key.startswith(place) for key in left_out.missing_keys)
    block.eval()
    x = z['x'].requires_grad_()
    y = block.get_submodule(place)(x)
    close(y, z['y'])
    (y * z['gy']).sum().backward()
    close(x.grad, z['grad_x'])
    grads = part(z, 'grad.')
    assert {own_name(k) for k in grads} == {n for n in adapter_parameter_names(block) if n.startswith(place)}
    for key, grad in grads.items():
        close(block.get_parameter(own_name(key)).grad, grad, key)



def unfolded(key: str, value: torch.Tensor) -> torch.Tensor:
    """Turn the order of merged patches from that of the published code into that of ``nn.Unfold``."""
    if re.search(r'downsample\.(norm\.|reduction\.(weight|rlrr_in))', key):
        lead = value.shape[:-1]
        return value.reshape(*lead, 4, -1)[..., [0, 2, 1, 3], :].transpose(-1, -2).reshape(*lead, -1)
    return value


class TestGoldenSwin:
    @pytest.fixture
    def z(self, golden):
        return read(golden, 'swin_tiny')

    @pytest.fixture
    def model(self, z):
        model = RLRRSwin(**SWIN).double()
        own = model.state_dict()
        state = {k: v for k, v in own.items() if 'relative_position_index' in k}
        for key, value in part(z, 'param.').items():
            name = swin_name(key)
            # The published class gives the reduction a bias that it never uses.
            if not key.startswith('head') and not name.endswith('reduction.bias'):
                state[name] = unfolded(name, value).reshape(own[name].shape)
        assert set(state) == set(own)
        model.load_state_dict(state, strict=True)
        return model

    def test_logits_features_and_gradients(self, model, z):
        head_weight, head_bias = (z[f'param.head.{w}'] for w in ('weight', 'bias'))
        feature = model(z['img'])[-1].mean((2, 3))
        logits = F.linear(feature, head_weight, head_bias)
        close(feature, z['feat'])
        close(logits, z['logits'])
        F.cross_entropy(logits, z['label'].long()).backward()
        grads = {swin_name(k): v for k, v in part(z, 'grad.').items() if not k.startswith('head')}
        assert set(grads) == adapter_parameter_names(model)
        for key, grad in grads.items():
            close(model.get_parameter(key).grad, unfolded(key, grad), key)

    def test_merged_weights(self, model, z):
        merged, theirs = merged_state_dict(model), part(z, 'merged_officialorder.')
        assert set(theirs) == {k for k in merged if 'relative_position_index' not in k}
        for key, value in theirs.items():
            close(merged[key], unfolded(key, value), key)


@pytest.mark.parametrize(
    ('cfg', 'name'),
    [
        (dict(type='RLRRViT', arch='base', patch_size=16), 'ViT-B_16'),
        (dict(type='RLRR-ViT', arch='base', patch_size=32), 'ViT-B_32'),
        (dict(type='RLRRViT', arch='large', patch_size=16), 'ViT-L_16'),
        (dict(type='RLRRViT', arch='huge', patch_size=14), 'ViT-H_14'),
        (dict(type='RLRR-Swin', arch='base'), 'Swin-B_w7_224'),
    ],
)
def test_parameter_counts(golden, cfg, name):
    counts = json.loads((golden / 'rlrr' / 'param_counts.json').read_text())
    with Skeleton():
        report = parameter_report(MODELS.build(cfg))
    assert report.trainable == counts[name] == sum(row.trainable for row in report.rows)


CASES = {
    'vit': (dict(type='RLRRViT', **VIT), 8),
    'vit_rank2': (dict(type='RLRRViT', lora_ranks=2, rlrr_init='identity', **VIT), 8),
    'vit_ranks': (dict(type='RLRRViT', lora_ranks=[[1, 2, 3, 0], [{'q': 2, 'k': 0, 'v': 1}, 1, 0, 1]], **VIT), 8),
    'vit_avg': (dict(type='RLRRViT', out_type='avg_featmap', **VIT), 8),
    'vit_pre_norm': (dict(type='RLRRViT', pre_norm=True, **VIT), 8),
    'vit_patches_without_bias': (dict(type='RLRRViT', patch_cfg=dict(bias=False), **VIT), 8),
    'swin': (dict(type='RLRRSwin', **SWIN), 32),
    'swin_stage_list': (
        dict(type='RLRRSwin', stage_cfgs=[dict(block_cfgs=dict(window_size=2)), dict()], **SWIN), 32
    ),
}  # fmt: skip


def build(case: str) -> tuple[nn.Module, torch.Tensor]:
    cfg, size = CASES[case]
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg)).double()
    model.init_weights()  # It must leave the learned tensors alone.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.eval()
    return model, torch.randn(2, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize('case', CASES)
class TestInvariants:
    def test_deployed_backbone_is_the_plain_one(self, case):
        model, x = build(case)
        expected = model(x)[-1]
        cls, cfg = type(model), copy.deepcopy(CASES[case][0])
        plain = MODELS.build(cls.merged_config(cfg)).double()
        plain.eval()
        assert type(plain) in (VisionTransformer, SwinTransformer) and not adapter_modules(plain)
        plain.load_state_dict(merged_state_dict(model), strict=True)
        torch.testing.assert_close(plain(x)[-1], expected, rtol=0, atol=1e-10)
        merge_adapters(model)
        torch.testing.assert_close(model(x)[-1], expected, rtol=0, atol=1e-10)
        model.switch_to_deploy()
        model.switch_to_deploy()
        assert not [m for m in model.modules() if m is not model and type(m).__module__.startswith('mmlora')]
        torch.testing.assert_close(model(x)[-1], expected, rtol=0, atol=1e-10)
        plain.load_state_dict(model.state_dict(), strict=True)
        torch.testing.assert_close(plain(x)[-1], expected, rtol=0, atol=1e-10)

    def test_only_adapters_learn_and_all_of_them_do(self, case):
        model, x = build(case)
        model.train()
        model(x)[-1].square().sum().backward()
        names = adapter_parameter_names(model)
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (name in names), name
            if name in names and 'bias_k' not in name:  # A shift of all keys changes no attention.
                assert parameter.grad.abs().sum() > 1e-12, f'no gradient for {name}'

    def test_loading_is_loud(self, case):
        model, x = build(case)
        state = copy.deepcopy(model.state_dict())
        learned = sorted(adapter_parameter_names(model))
        frozen = next(k for k in state if k not in learned)
        for without, message in ((learned[0], learned[0]), (frozen, frozen)):
            with pytest.raises(ValueError, match=re.escape(message)):
                model.load_state_dict({k: v for k, v in state.items() if k != without}, strict=False)
        with pytest.raises(ValueError, match='another rank'):
            model.load_state_dict({**state, learned[0]: torch.zeros(7, 7)}, strict=False)
        twin, _ = build(case)
        twin.load_state_dict(state)
        assert torch.equal(twin(x)[-1], model(x)[-1])


def test_identity_start_is_the_frozen_backbone():
    torch.manual_seed(0)
    plain = VisionTransformer(**VIT)
    plain.init_weights()
    model = RLRRViT(rlrr_init='identity', **VIT)
    model.load_state_dict(plain.state_dict(), strict=False)
    plain.eval(), model.eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x)[0], plain(x)[0])
    published = RLRRViT(**VIT)
    published.load_state_dict(plain.state_dict(), strict=False)
    published.eval()
    assert not torch.allclose(published(x)[0], plain(x)[0], atol=1e-3)


class TestDrops:
    def test_modes(self):
        deep = {**VIT, 'arch': dict(VIT['arch'], num_layers=3)}
        for kwargs, kind, attribute in (
            (dict(), nn.Dropout, 'p'), (dict(drop_mode='dropout'), nn.Dropout, 'p'),
            (dict(drop_mode='path'), DropPath, 'drop_prob'),
        ):  # fmt: skip
            model = RLRRViT(drop_path_rate=0.4, **kwargs, **deep)
            for rate, layer in zip((0.0, 0.2, 0.4), model.layers, strict=True):
                for drop in (layer.attn.out_drop, layer.ffn.dropout_layer):
                    assert type(drop) is kind and getattr(drop, attribute) == pytest.approx(rate)
        drops = [m for m in RLRRSwin(**{**SWIN, 'drop_path_rate': 0.3}).modules() if isinstance(m, DropPath)]
        assert len(drops) == 8 and max(d.drop_prob for d in drops) == pytest.approx(0.3)

    def test_dropout_drops_elements_and_path_drops_samples(self):
        for mode, whole in (('dropout', False), ('path', True)):
            model = RLRRViT(drop_path_rate=0.5, drop_mode=mode, **VIT).train()
            torch.manual_seed(0)
            branch = model.layers[1].attn.out_drop(torch.ones(20, 5, 8))
            assert set(branch.unique().tolist()) == {0.0, 2.0}
            assert (branch.flatten(1).std(1) == 0).all() == whole


class TestAdaptedBackbone:
    def test_any_backbone(self):
        cfg = dict(
            type='AdaptedBackbone', kind='rlrr', targets=['pointwise_conv1', 'pointwise_conv2'],
            scale_shift=['stages.3.0.depthwise_conv'],
            adapter_cfg=dict(init='identity'),
            backbone=dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[4, 8, 8, 16]), drop_path_rate=0.0),
        )  # fmt: skip
        model = MODELS.build(cfg)
        layers = adapter_modules(model)
        assert len(adapted_layers(model)) == 8 and len(layers) == 9
        assert all(layer.ranks == {'': 1} for layer in adapted_layers(model).values())
        assert all(layer.init == 'identity' for layer in layers.values())
        assert isinstance(layers['stages.3.0.depthwise_conv'], ScaleShift)

    def test_the_same_as_the_named_backbone(self):
        torch.manual_seed(0)
        named = RLRRViT(**VIT)
        named.eval()
        model = MODELS.build(dict(
            type='AdaptedBackbone', kind='rlrr', targets=['qkv', 'proj', 'ffn.layers.0.0', 'ffn.layers.1'],
            scale_shift=['ln1', 'ln2', 'projection'],
            backbone=dict(type='VisionTransformer', **VIT),
        ))  # fmt: skip
        model.load_state_dict(named.state_dict(), strict=True)
        model.eval()
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(model(x)[0], named(x)[0])

    @pytest.mark.parametrize('kind', ['RLRR', 'GLoRA', 'LoRA'])
    @pytest.mark.parametrize('target', ['reduction', 'w_msa.proj'])
    def test_merged_weights_find_a_place_for_their_shifts(self, kind, target):
        arch = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
        inner = dict(type='SwinTransformer', arch=arch, img_size=64, window_size=2, drop_path_rate=0.0)
        cfg = dict(type='AdaptedBackbone', kind=kind, targets=[target], backbone=inner)
        model = MODELS.build(cfg).double()
        with torch.no_grad():
            for name in adapter_parameter_names(model):
                model.get_parameter(name).add_(0.1)
        plain_cfg = MODELS.get('AdaptedBackbone').merged_config(cfg)
        assert (plain_cfg != inner) == (target == 'reduction' and kind != 'LoRA')
        plain = MODELS.build(plain_cfg).double()
        plain.load_state_dict(merged_state_dict(model), strict=True)
        model.eval()
        plain.eval()
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        close(plain(x)[0], model(x)[0])

    @pytest.mark.parametrize(('depth', 'name'), [(18, 'ResNet-18_r1_all_convs'), (50, 'ResNet-50_r1_all_convs')])
    def test_convolutions_alone(self, golden, depth, name):
        counts = json.loads((golden / 'rlrr' / 'param_counts.json').read_text())
        convs = [r'.*conv\d', r'.*downsample\.0']
        with Skeleton():
            model = MODELS.build(dict(
                type='AdaptedBackbone', kind='rlrr', targets=[], rlrr_convs=convs,
                backbone=dict(type='ResNet', depth=depth),
            ))  # fmt: skip
        assert parameter_report(model).trainable == counts[name]

    def test_lora_keeps_its_rank_of_8(self):
        inner = dict(type='VisionTransformer', **VIT)
        inner['arch'] = dict(inner['arch'], embed_dims=16)
        model = MODELS.build(dict(type='AdaptedBackbone', targets=['proj'], backbone=inner))
        assert all(layer.ranks == {'': 8} for layer in adapted_layers(model).values())
        assert not any(isinstance(layer, RLRRLinear) for layer in adapted_layers(model).values())


INNER = dict(type='VisionTransformer', **VIT)
BAD = {
    'arch': (dict(type='RLRRViT', arch='bass'), ValueError, "'bass'"),
    'keyword': (dict(type='RLRRViT', drop_rates=0.1), TypeError, "'drop_rates'.*drop_rate"),
    'lora_alpha': (dict(type='RLRRViT', lora_alpha=1), TypeError, 'lora_alpha'),
    'drop_mode': (dict(type='RLRRViT', drop_mode='paths', **VIT), ValueError, "'paths'.*dropout"),
    'init': (dict(type='RLRRViT', rlrr_init='zeros', **VIT), ValueError, "'zeros'.*identity"),
    'rank': (dict(type='RLRRViT', lora_ranks=9, **VIT), ValueError, r'layers.0.attn.qkv.*1\.\.8.*got 9'),
    'alpha_of_rlrr': (
        dict(type='AdaptedBackbone', kind='rlrr', targets=['qkv'], lora_alpha=2, backbone=INNER), ValueError,
        "'rlrr' have no alpha, got 2"
    ),
    'kind': (dict(type='AdaptedBackbone', kind='rllr', targets=['qkv'], backbone=INNER), ValueError, "'rllr'"),
    'scale_shift': (
        dict(type='AdaptedBackbone', kind='rlrr', targets=['qkv'], scale_shift=['norm9'], backbone=INNER), ValueError,
        "'norm9'"
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_bad_arguments(case):
    cfg, error, match = BAD[case]
    with pytest.raises(error, match=match):
        MODELS.build(copy.deepcopy(cfg))


@pytest.mark.parametrize('kind', ['VitSR_LoRA', 'RLRRViT'])
def test_mmpretrain_deploys_the_backbone(kind):
    """What its reparameterize_model.py does with a classifier."""
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='ImageClassifier', backbone=dict(type=kind, lora_ranks=1, **VIT),
        head=dict(type='LinearClsHead', in_channels=8, num_classes=3),
    ))  # fmt: skip
    model.eval()
    for name in sorted(adapter_parameter_names(model)):
        nn.init.normal_(model.get_parameter(name), std=0.3)
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    model.backbone.switch_to_deploy()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    plain = VisionTransformer(**VIT)
    plain.load_state_dict(model.backbone.state_dict(), strict=True)
    assert not find_adapted(model)
