"""The adapted backbones: goldens, counts, names, symbolic ranks and bad input."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import load_checkpoint
from mmpretrain.models import ResNet, SwinTransformer, VisionTransformer
from mmpretrain.registry import MODELS

from mmlora.adapters import LowRankLinear, adapted_layers, adapter_parameter_names, merged_state_dict, parameter_report
from mmlora.models import SwinSR_LoRA, VitSR_LoRA
from mmlora.models.backbones.skeleton import Skeleton

VIT = dict(arch=dict(embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=32), img_size=32, patch_size=16)
SWIN = dict(
    arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]), img_size=64, window_size=2, drop_path_rate=0.0
)
VIT_RANKS = [[2, 3], [4, 1]]
SWIN_RANKS = [[[1, 2]], [[2, 2]], [[2, 3], [4, 1]], [[3, 2]]]
RESNET = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)

CASES = {
    'vit': (dict(type='VitSR_LoRA', lora_ranks=VIT_RANKS, **VIT), VisionTransformer, VIT, 32),
    'vit_ffn': (dict(type='VitSR_LoRA', lora_ranks=2, ffn=True, lora_slices='qkv', **VIT), VisionTransformer, VIT, 32),
    'swin': (dict(type='SwinSR_LoRA', lora_ranks=SWIN_RANKS, **SWIN), SwinTransformer, SWIN, 64),
    'swin_ffn': (dict(type='SwinSR_LoRA', lora_ranks=1, ffn=True, **SWIN), SwinTransformer, SWIN, 64),
    'adapted_vit': (
        dict(
            type='AdaptedBackbone', backbone=dict(type='VisionTransformer', **VIT),
            targets=['qkv', 'ffn.layers.0.0', 'ffn.layers.1'],
        ),
        VisionTransformer, VIT, 32,
    ),
    'adapted_swin': (
        dict(
            type='AdaptedBackbone', backbone=dict(type='SwinTransformer', **SWIN),
            targets=['w_msa.qkv', 'w_msa.proj', r'.*\.ffn\.layers\.0\.0'], lora_ranks=2, lora_scaling='alpha/sqrt(r)',
        ),
        SwinTransformer, SWIN, 64,
    ),
    'adapted_convnext': (
        dict(
            type='AdaptedBackbone', targets=['pointwise_conv1'], lora_ranks=3,
            backbone=dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[4, 8, 8, 16]), drop_path_rate=0.0),
        ),
        None, None, 64,
    ),
}  # fmt: skip


def build(case: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy(CASES[case][0])).double()


def fill(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for name in sorted(adapter_parameter_names(model)):
        nn.init.normal_(model.get_parameter(name), std=0.3)
    return model


def image(case: str) -> torch.Tensor:
    size = CASES[case][3]
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize('case', CASES)
class TestInvariants:
    def test_fresh_adapters_change_nothing_and_filled_ones_do(self, case):
        model, x = build(case), image(case)
        model.eval()
        with_adapters = model(x)[-1]
        for layer in adapted_layers(model).values():
            assert torch.equal(layer.delta(), torch.zeros_like(layer.delta()))
        fill(model)
        assert not torch.allclose(model(x)[-1], with_adapters)

    def test_only_adapters_learn(self, case):
        model = fill(build(case))
        model(image(case))[-1].square().sum().backward()
        names = adapter_parameter_names(model)
        assert names
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (name in names), name
            if name in names:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, f'no gradient for {name}'
            else:
                assert parameter.grad is None, f'a gradient for {name}'

    def test_training_and_evaluation_agree_and_are_deterministic(self, case):
        model, x = fill(build(case)), image(case)
        model.train()
        train = model(x)[-1]
        model.eval()
        assert torch.equal(model(x)[-1], train) and torch.equal(model(x)[-1], train)

    def test_copies(self, case):
        model, x = fill(build(case)), image(case)
        model.eval()
        expected = model(x)[-1]
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x)[-1], expected)
            with pytest.raises(ValueError, match='lacks'):
                twin.load_state_dict({}, strict=False)

    def test_merged_weights_load_strictly_into_the_plain_backbone(self, case):
        _, cls, kwargs, _ = CASES[case]
        if cls is None:
            pytest.skip('the plain backbone is not a class of this table')
        model, x = fill(build(case)), image(case)
        model.eval()
        plain = cls(**copy.deepcopy(kwargs)).double()
        plain.load_state_dict(merged_state_dict(model), strict=True)
        plain.eval()
        torch.testing.assert_close(plain(x)[-1], model(x)[-1], rtol=0, atol=1e-10)

    def test_save_in_evaluation_and_reload_elsewhere(self, case, tmp_path):
        model, x = fill(build(case)), image(case)
        model.eval()
        torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'm.pth')
        torch.manual_seed(5)
        twin = MODELS.build(copy.deepcopy(CASES[case][0])).double()
        load_checkpoint(twin, str(tmp_path / 'm.pth'))
        twin.eval()
        assert torch.equal(twin(x)[-1], model(x)[-1])


class TestGolden:
    @pytest.fixture
    def z(self, golden):
        return {k: torch.from_numpy(v) for k, v in np.load(golden / 'sr_lora' / 'vit_srlora_tiny.npz').items()}

    def test_published_weights_features_and_gradients(self, z):
        model = VitSR_LoRA(lora_ranks=VIT_RANKS, **VIT).double()
        state = {k[3:]: v for k, v in z.items() if k.startswith('sd/')}
        assert any(k.endswith('qkv.lora_A') for k in state), 'the published layout is what this test is about'
        model.load_state_dict(state, strict=True)
        out = model(z['x'])[0]
        torch.testing.assert_close(out, z['full_rank_train_out'], rtol=0, atol=1e-12)
        (out * z['G']).sum().backward()
        for key in [k for k in z if k.startswith('full_rank_grad/')]:
            name = key.removeprefix('full_rank_grad/')
            if 'qkv' in name:
                grad = torch.cat([model.get_parameter(f'{name}_{s}').grad for s in 'qv'])
            else:
                grad = model.get_parameter(name).grad
            torch.testing.assert_close(grad, z[key], rtol=0, atol=1e-12, msg=key)
        model.eval()
        torch.testing.assert_close(model(z['x'])[0], z['full_rank_train_out'], rtol=0, atol=1e-12)

    def test_published_swin_drops_the_unused_twin(self):
        model = fill(SwinSR_LoRA(lora_ranks=SWIN_RANKS, **SWIN).double())
        state = {}
        for key, value in model.state_dict().items():
            if key.endswith('lora_A_v') or key.endswith('lora_B_v'):
                continue
            if key.endswith(('lora_A_q', 'lora_B_q')):
                value = torch.cat([value, model.state_dict()[key[:-1] + 'v']])
                key = key[:-2]
            state[key] = value
            if '.w_msa.' in key and 'relative' not in key:
                state[key.replace('.w_msa', '')] = value + 1
        state['norm.weight'], state['norm.bias'] = state.pop('norm3.weight'), state.pop('norm3.bias')
        state['stages.0.blocks.0.attn.attn_mask'] = torch.zeros(1)
        twin = SwinSR_LoRA(lora_ranks=SWIN_RANKS, **SWIN).double()
        twin.load_state_dict(state, strict=True)
        x = image('swin')
        twin.eval(), model.eval()
        assert torch.equal(twin(x)[-1], model(x)[-1])


@pytest.mark.parametrize(
    ('cfg', 'trainable'),
    [
        (dict(type='VitSR_LoRA', arch='base', lora_ranks='in21k-vit-b'), 3_889_152),
        (dict(type='VitSR_LoRA', arch='base', lora_ranks=8), 442_368),
        (dict(type='VitSR_LoRA', arch='large', lora_ranks='in21k-vit-l'), 12_955_648),
        (dict(type='SwinSR_LoRA', arch='base', lora_ranks='swin-b'), 3_686_400),
    ],
)
def test_parameter_counts(cfg, trainable):
    with Skeleton():
        report = parameter_report(MODELS.build(cfg))
    assert report.trainable == trainable == sum(row.trainable for row in report.rows)
    if cfg['arch'] == 'base' and cfg['type'] == 'VitSR_LoRA':
        assert report.total - trainable == 85_798_656


@pytest.mark.parametrize('arch', ['s', 'small', 'b', 'base', 'l', 'large', 'h', 'huge', 'deit-t', 'deit-s', 'dinov2-g'])
def test_every_arch_of_the_vit(arch):
    with Skeleton():
        model = VitSR_LoRA(arch=arch, lora_ranks=4)
    assert len(adapted_layers(model)) == 2 * len(model.layers)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
def test_every_arch_of_swin(arch):
    with Skeleton():
        model = SwinSR_LoRA(arch=arch, lora_ranks=4)
    assert len(adapted_layers(model)) == 2 * sum(len(stage.blocks) for stage in model.stages)


class TestNames:
    @pytest.mark.parametrize('name', ['VitSR_LoRA', 'mmlora.VitSR_LoRA', 'mmpretrain.VitSR_LoRA', 'ViTSR_LoRA'])
    @pytest.mark.parametrize('scope', ['mmpretrain', 'mmlora', 'sibling'])
    def test_from_any_scope(self, name, scope):
        if '.' not in name and scope == 'sibling':
            pytest.skip('a bare name belongs to mmpretrain and mmlora')
        sibling = Registry('model', parent=ROOT, scope='sibling', locations=[])
        try:
            with DefaultScope.overwrite_default_scope(scope):
                assert isinstance(sibling.build(dict(type=name, lora_ranks=1, **VIT)), VitSR_LoRA)
        finally:
            ROOT._children.pop('sibling')

    @pytest.mark.parametrize('name', ['SwinSR_LoRA', 'SwinTransformerSR_LoRA', 'mmlora.SwinTransformerSR_LoRA'])
    def test_published_names(self, name):
        assert MODELS.get(name) is SwinSR_LoRA

    @pytest.mark.parametrize('name', ['StableRankHook', 'vit_srloraHook', 'swin_srloraHook', 'mmlora.StableRankHook'])
    def test_hooks(self, name):
        from mmpretrain.registry import HOOKS

        assert HOOKS.get(name).__name__ == 'StableRankHook'


class TestSymbolicRanks:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        torch.manual_seed(0)
        path = tmp_path / 'vit.pth'
        torch.save({'state_dict': {f'backbone.{k}': v for k, v in VisionTransformer(**VIT).state_dict().items()}}, path)
        return str(path)

    def expected(self, checkpoint):
        state = torch.load(checkpoint, weights_only=True)['state_dict']
        out = {}
        for i in range(2):
            for end in ('qkv', 'proj'):
                s = np.linalg.svd(state[f'backbone.layers.{i}.attn.{end}.weight'].double().numpy(), compute_uv=False)
                out[f'layers.{i}.attn.{end}'] = round((s**2).sum() / s[0] ** 2)
        return out

    def test_from_init_cfg(self, checkpoint):
        init_cfg = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
        for ranks in ('stable_rank', None):
            model = VitSR_LoRA(lora_ranks=ranks, init_cfg=init_cfg, **VIT)
            assert {n: max(r.ranks.values()) for n, r in adapted_layers(model).items()} == self.expected(checkpoint)
        model.init_weights()
        state = torch.load(checkpoint, weights_only=True)['state_dict']
        assert torch.equal(model.pos_embed, state['backbone.pos_embed'])
        assert torch.equal(model.layers[1].attn.qkv.weight, state['backbone.layers.1.attn.qkv.weight'])
        assert all(torch.equal(b, torch.zeros_like(b)) for lay in adapted_layers(model).values()
                   for _, b in lay.factors().values())  # fmt: skip

    def test_adapted_backbone(self, checkpoint):
        init_cfg = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
        model = MODELS.build(
            dict(
                type='AdaptedBackbone',
                backbone=dict(type='VisionTransformer', init_cfg=init_cfg, **VIT),
                targets=['qkv', 'proj'],
                lora_ranks='stable_rank',
            )
        )
        assert type(model) is VisionTransformer
        assert {n: max(r.ranks.values()) for n, r in adapted_layers(model).items()} == self.expected(checkpoint)

    def test_from_a_checkpoint_and_from_ranks_json(self, checkpoint, tmp_path):
        model = VitSR_LoRA(lora_ranks=checkpoint, **VIT)
        path = tmp_path / 'ranks.json'
        path.write_text(model.rank_table.dumps())
        twin = VitSR_LoRA(lora_ranks=str(path), **VIT)
        assert twin.rank_table == model.rank_table and twin.rank_table.ranks == self.expected(checkpoint)

    def test_a_checkpoint_with_a_table_of_its_own(self, checkpoint, tmp_path):
        state = torch.load(checkpoint, weights_only=True)
        rows = [dict(module=m, rank=r) for m, r in zip(self.expected(checkpoint), (1, 2, 3, 4), strict=True)]
        state['meta'] = {'mmlora': {'rank_table': {'rows': rows}}}
        torch.save(state, tmp_path / 'own.pth')
        assert list(VitSR_LoRA(lora_ranks=str(tmp_path / 'own.pth'), **VIT).rank_table.ranks.values()) == [1, 2, 3, 4]

    def test_budget(self, checkpoint):
        init_cfg = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
        model = VitSR_LoRA(lora_ranks='stable_rank', rank_budget=dict(mean_rank=3), init_cfg=init_cfg, **VIT)
        assert sum(model.rank_table.ranks.values()) == 12

    @pytest.mark.parametrize(
        ('ranks', 'match'),
        [
            ('stable_rank', 'settle_ranks'),
            (None, 'settle_ranks'),
            ('stable_rnak', "'stable_rank'"),
            ('in21k-vit-c', 'in21k-vit-b'),
            ('in21k-vit-b', 'lora_ranks has 12 entries, the backbone has 2'),
            ([[2, 3]], 'has 1 entries, the backbone has 2'),
            ([[2, 17], [1, 1]], r'layers.0.attn.proj: rank must lie in 1..16 .* got 17'),
            ([[17, 2], [1, 1]], r"layers.0.attn.qkv: rank of slice 'q' must lie in 1..16"),
        ],
    )
    def test_bad_ranks(self, ranks, match):
        with pytest.raises(ValueError, match=match):
            VitSR_LoRA(lora_ranks=ranks, **VIT)

    def test_missing_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='none.json'):
            VitSR_LoRA(lora_ranks=str(tmp_path / 'none.json'), **VIT)
        with pytest.raises(FileNotFoundError, match='none.pth'):
            init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'none.pth'))
            VitSR_LoRA(init_cfg=init_cfg, **VIT)

    def test_a_checkpoint_of_another_net(self, tmp_path):
        torch.save(ResNet(18, stem_channels=8, base_channels=8).state_dict(), tmp_path / 'r.pth')
        with pytest.raises(ValueError, match='r.pth lacks the weights of 4 of the 4 adapted modules'):
            VitSR_LoRA(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'r.pth')), **VIT)


class TestLoadGuard:
    @pytest.fixture
    def state(self):
        return {k: v.clone() for k, v in fill(VitSR_LoRA(lora_ranks=VIT_RANKS, **VIT)).state_dict().items()}

    def load(self, state, tmp_path, how, **kwargs):
        path = str(tmp_path / 'm.pth')
        if how == 'init_cfg':
            torch.save(state, path)
            init_cfg = dict(type='Pretrained', checkpoint=path)
            model = VitSR_LoRA(lora_ranks=VIT_RANKS, init_cfg=init_cfg, **{**VIT, **kwargs})
            model.init_weights()
        else:
            torch.save({'state_dict': {f'backbone.{k}': v for k, v in state.items()}}, path)
            backbone = dict(type='VitSR_LoRA', lora_ranks=VIT_RANKS, **{**VIT, **kwargs})
            model = MODELS.build(dict(type='ImageClassifier', backbone=backbone))
            load_checkpoint(model, path, strict=False)
        return model

    @pytest.mark.parametrize('how', ['init_cfg', 'load_from'])
    class TestBothWays:
        def test_whole(self, state, tmp_path, how):
            model = TestLoadGuard().load(state, tmp_path, how)
            model = getattr(model, 'backbone', model)
            assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())

        def test_plain_weights(self, state, tmp_path, how):
            state = {k: v for k, v in state.items() if '.lora_' not in k}
            TestLoadGuard().load(state, tmp_path, how)

        @pytest.mark.parametrize(
            ('change', 'match'),
            [
                (lambda s: s.pop('layers.1.attn.qkv.weight'), r'lacks 1 of \d+ \(layers.1.attn.qkv.weight\)'),
                (lambda s: s.update(cls_token=torch.zeros(1, 1, 8)), r'cls_token is \(1, 1, 8\).*\(1, 1, 16\)'),
                (lambda s: s.pop('layers.1.attn.proj.lora_B'), r'other modules.*layers.1.attn.proj.lora_B'),
                (
                    lambda s: s.update({'layers.0.ffn.layers.1.lora_A': torch.zeros(1, 32)}),
                    r'layers.0.ffn.layers.1.lora_A',
                ),
                (
                    lambda s: s.update({'layers.0.attn.qkv.lora_A.weight': torch.zeros(1, 16)}),
                    r'has 1 of \d+ \(layers.0.attn.qkv.lora_A.weight\)',
                ),
                (
                    lambda s: s.update({'layers.1.attn.proj.lora_A': torch.zeros(2, 16)}),
                    r'another rank.*lora_A is \(2, 16\).*\(1, 16\).*settle_ranks',
                ),
                (lambda s: [s.update({f'x.{k}': s.pop(k)}) for k in list(s)], r'None of its keys fit'),
            ],
            ids=['missing', 'misshapen', 'factor_missing', 'factor_extra', 'factor_module', 'other_rank', 'prefix'],
        )
        def test_what_does_not_fit(self, state, tmp_path, how, change, match):
            change(state)
            with pytest.raises(ValueError, match=match):
                TestLoadGuard().load(state, tmp_path, how)

    def test_position_embedding_is_resized_and_not_refused(self, state, tmp_path):
        model = self.load(state, tmp_path, 'init_cfg', img_size=64)
        assert model.pos_embed.shape == (1, 17, 16)

    def test_a_list_of_initialisers_is_refused(self):
        with pytest.raises(ValueError, match='position embedding'):
            VitSR_LoRA(lora_ranks=1, init_cfg=[dict(type='TruncNormal', layer='Linear')], **VIT)


SWEEP = {
    'vit_raw': (dict(type='VisionTransformer', out_type='raw', **VIT), 32),
    'deit3': (dict(type='DeiT3', **VIT), 32),
    'eva02': (dict(type='ViTEVA02', **VIT), 32),
    'swin_v2': (
        dict(
            type='SwinTransformerV2', window_size=[2] * 4, img_size=64,
            arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], extra_norm_every_n_blocks=0),
        ), 64,
    ),
    'tiny_vit': (dict(type='TinyViT', arch='5m', img_size=(64, 64), window_size=[2] * 4), 64),
    'pcpvt': (dict(type='PCPVT', arch='small'), 64),
    'mixer': (dict(type='MlpMixer', arch=dict(embed_dims=16, num_layers=2, tokens_mlp_dims=8, channels_mlp_dims=32),
                   img_size=32, patch_size=16), 32),
}  # fmt: skip


@pytest.mark.parametrize('slices', ['qv', None])
@pytest.mark.parametrize('case', SWEEP)
def test_sweep_of_backbones(case, slices):
    """Every adapter of a backbone is called, and the backbone loads what it saves."""
    inner, size = SWEEP[case]
    targets = {'swin_v2': r'.*(proj|ffn.*)'}.get(case, '.*')
    cfg = dict(type='AdaptedBackbone', backbone=inner, targets=targets, lora_ranks=1, lora_slices=slices)
    if case == 'tiny_vit' and slices:
        with pytest.raises(ValueError, match='LeAttention.*slices=None'):
            MODELS.build(copy.deepcopy(cfg))
        return
    model = MODELS.build(copy.deepcopy(cfg))
    called = set()
    for name, layer in adapted_layers(model).items():
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
    model.eval()
    with torch.no_grad():
        model(torch.randn(1, 3, size, size))
    assert called == set(adapted_layers(model))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(state, strict=case != 'swin_v2')  # its own hook drops a buffer that it derives
    model.load_state_dict({k: v for k, v in state.items() if '.lora_' not in k}, strict=False)


class TestOptions:
    def test_trained_backbone(self):
        model = VitSR_LoRA(lora_ranks=1, frozen=False, **VIT)
        assert model.patch_embed.projection.weight.requires_grad and model.layers[0].attn.proj.lora_A.requires_grad
        assert not model.layers[0].attn.proj.weight.requires_grad, 'W of an adapted layer stays frozen'

    def test_alpha_scaling_dropout_and_slices(self):
        model = VitSR_LoRA(
            lora_ranks=4, lora_alpha=8, lora_scaling='alpha/sqrt(r)', lora_dropout=0.3, lora_slices='k', **VIT
        )
        layer = model.layers[0].attn.qkv
        assert layer.scalings == {'k': 4.0} and layer.lora_dropout.p == 0.3
        assert model.layers[1].attn.proj.scalings == {'': 4.0}

    def test_a_projection_adapted_as_one_loads_its_own_checkpoint(self):
        model = fill(VitSR_LoRA(lora_ranks=2, lora_slices=None, **VIT))
        twin = VitSR_LoRA(lora_ranks=2, lora_slices=None, **VIT)
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin.layers[0].attn.qkv.lora_A, model.layers[0].attn.qkv.lora_A)

    def test_stages_that_freeze_adapters_are_refused(self):
        with pytest.raises(ValueError, match='frozen_stages=1 switches .* stages.0.blocks.0'):
            SwinSR_LoRA(lora_ranks=1, frozen_stages=1, **SWIN)

    def test_a_budget_needs_a_criterion(self):
        with pytest.raises(ValueError, match='rank_budget.*lora_ranks=2'):
            VitSR_LoRA(lora_ranks=2, rank_budget=dict(mean_rank=2), **VIT)

    def test_numpy_numbers_are_ranks(self):
        assert VitSR_LoRA(lora_ranks=np.int64(2), **VIT).rank_table.rows[0].rank == 2

    @pytest.mark.parametrize('slices', ['', 'qo', 'qq'])
    def test_bad_slices(self, slices):
        with pytest.raises(ValueError, match='lora_slices'):
            VitSR_LoRA(lora_ranks=1, lora_slices=slices, **VIT)

    def test_train_and_eval_return_self(self):
        for model in (VitSR_LoRA(lora_ranks=1, **VIT), SwinSR_LoRA(lora_ranks=1, **SWIN)):
            assert model.train() is model and model.eval() is model

    def test_unknown_arch(self):
        with pytest.raises(ValueError, match="'bsae'"):
            VitSR_LoRA(arch='bsae', lora_ranks=1)
        with pytest.raises(ValueError, match="'bsae'"):
            SwinSR_LoRA(arch='bsae', lora_ranks=1)

    def test_adapted_backbone_errors(self):
        with pytest.raises(ValueError, match=r"'attn.qvk' matches no linear layer.*qkv"):
            MODELS.build(
                dict(type='AdaptedBackbone', backbone=dict(type='VisionTransformer', **VIT), targets=['attn.qvk'])
            )
        with pytest.raises(TypeError, match='backbone must be a config'):
            MODELS.build(dict(type='AdaptedBackbone', backbone='ViT', targets=['qkv']))

    def test_every_linear_layer_of_a_mixer(self):
        model = MODELS.build(
            dict(type='AdaptedBackbone', backbone=dict(type='MlpMixer', arch='b', img_size=32), targets=['.*'],
                 lora_ranks=1)
        )  # fmt: skip
        assert all(isinstance(m, LowRankLinear) for m in model.modules() if isinstance(m, nn.Linear))

    def test_ranks_survive_json(self):
        table = VitSR_LoRA(lora_ranks=VIT_RANKS, **VIT).rank_table
        assert json.loads(table.dumps())['rows'][0]['rank'] == 2
