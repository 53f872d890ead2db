"""Merged checkpoints: kinds of adapters x what stock mmpretrain makes of the files."""

import copy

import pytest
import tiny
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from mmlora.adapters import adapted_layers, adapter_modules, adapter_parameter_names
from mmlora.apis import merge, merge_checkpoint
from mmlora.apis import test as run_test
from mmlora.engine.adaptation import describe_adaptation

VIT = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=32, patch_size=16
)
SWIN = dict(arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]), img_size=32, window_size=2, out_indices=(1,))
CASES = {
    'sr_lora': dict(type='VitSR_LoRA', lora_ranks=[[2, 3], [4, 1]], **VIT),
    'sr_lora_swin': dict(type='SwinSR_LoRA', lora_ranks=2, ffn=True, **SWIN),
    'lora': dict(
        type='AdaptedBackbone', targets=['qkv', 'proj'], lora_ranks=2, lora_alpha=4,
        backbone=dict(type='VisionTransformer', **VIT)
    ),
    'rlrr': dict(type='RLRRViT', lora_ranks=1, drop_path_rate=0.1, **VIT),
    'rlrr_swin': dict(type='RLRR-Swin', lora_ranks=1, stage_cfgs=dict(block_cfgs=dict(window_size=2)), **SWIN),
    'rlrr_adapted': dict(
        type='AdaptedBackbone', kind='rlrr', targets=['pointwise_conv1'], lora_ranks=2,
        scale_shift=['depthwise_conv'],
        backbone=dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[4, 8, 8, 16]), drop_path_rate=0.0)
    ),
    'rlrr_resnet': dict(
        type='AdaptedBackbone', kind='rlrr', targets=[], rlrr_convs=[r'.*conv\d'],
        backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=2)
    ),
}  # fmt: skip
SWIN_V2 = dict(
    type='AdaptedBackbone', targets=['w_msa.proj', 'reduction'], lora_ranks=2,
    backbone=dict(type='SwinTransformerV2', **SWIN | dict(
        arch=dict(SWIN['arch'], extra_norm_every_n_blocks=0), window_size=[2, 2]))
)  # fmt: skip
"""Its load hook drops buffers that it derives, so that it loads nothing strictly, not even its own state."""


def config(backbone: dict) -> Config:
    head = dict(type='LinearClsHead', in_channels=16, num_classes=3)
    neck = dict(type='GlobalAveragePooling') if any(name in str(backbone) for name in ('win', 'ResNet')) else None
    model = dict(type='ImageClassifier', backbone=copy.deepcopy(backbone), neck=neck, head=head)
    report = [dict(type='StableRankHook'), dict(type='mmlora.vit_srloraHook')] if 'lora_ranks' in backbone else []
    return Config(dict(
        model=model, default_scope='mmpretrain',
        custom_hooks=[*report, dict(type='mmlora.SPUHook'), dict(type='StepSeedHook')],
    ))  # fmt: skip


def trained(case: str, folder) -> tuple[Config, nn.Module, str]:
    """Write a checkpoint as training does, with adapters that have learned something."""
    cfg = config(CASES[case])
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    with torch.no_grad():
        for name in sorted(adapter_parameter_names(model)):
            model.get_parameter(name).add_(0.3 * torch.randn_like(model.get_parameter(name)))
    path = str(folder / 'epoch_1.pth')
    meta = dict(mmlora=describe_adaptation(model), dataset_meta=dict(classes=('a', 'b', 'c')), cfg='secret = 1')
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    model.eval()
    return cfg, model, path


@pytest.mark.parametrize('case', CASES)
def test_the_plain_model_computes_the_same(case, tmp_path, capsys):
    cfg, model, path = trained(case, tmp_path)
    cfg.dump(str(tmp_path / 'cfg.py'))
    tiny.call_tool('merge', tmp_path / 'cfg.py', path, tmp_path / 'plain.pth')
    assert capsys.readouterr().out.split() == [str(tmp_path / 'plain.pth'), str(tmp_path / 'plain.py')]
    plain_cfg = Config.fromfile(tmp_path / 'plain.py')
    plain = MODELS.build(plain_cfg.model)
    plain.eval()
    assert not any(type(m).__module__.startswith('mmlora') for m in plain.modules())
    assert [hook['type'] for hook in plain_cfg.custom_hooks] == ['StepSeedHook']
    checkpoint = load_checkpoint(plain, str(tmp_path / 'plain.pth'), strict=True)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('a', 'b', 'c') and 'cfg' not in checkpoint['meta']
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-5)
    assert {v.dtype for v in plain.parameters()} == {torch.float32}
    tensors, _ = merge_checkpoint(cfg, path, str(tmp_path / 'plain.safetensors'))
    assert all(torch.equal(v, checkpoint['state_dict'][k]) for k, v in load_file(tensors).items())


def test_a_backbone_that_derives_buffers(tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, 'swin_v2', SWIN_V2)
    cfg, model, path = trained('swin_v2', tmp_path)
    weights, plain_cfg = merge_checkpoint(cfg, path, str(tmp_path / 'plain.pth'))
    plain = MODELS.build(Config.fromfile(plain_cfg).model)
    load_checkpoint(plain, str(weights))
    plain.eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_test_tool_takes_both_files(tmp_path, images):
    cfg = tiny.tiny_config(images, tmp_path / 'work', model__backbone__type='RLRRViT')
    model = MODELS.build(copy.deepcopy(cfg.model))
    path = str(tmp_path / 'trained.pth')
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    weights, plain = merge_checkpoint(cfg, path, str(tmp_path / 'plain.pth'))
    before = run_test(cfg, path, work_dir=str(tmp_path / 'one'))
    assert run_test(Config.fromfile(plain), str(weights), work_dir=str(tmp_path / 'other')) == before


class TestErrors:
    @pytest.fixture
    def run(self, tmp_path):
        return trained('rlrr', tmp_path)

    def test_files(self, run, tmp_path):
        cfg, _, path = run
        for out, match in ((tmp_path / 'plain.bin', '.safetensors'), (path, 'itself')):
            with pytest.raises(ValueError, match=match):
                merge_checkpoint(cfg, path, str(out))
        (tmp_path / 'mine.py').write_text('x = 1')
        with pytest.raises(ValueError, match='another file'):
            merge_checkpoint(cfg, path, str(tmp_path / 'mine.pth'))
        assert (tmp_path / 'mine.py').read_text() == 'x = 1'
        with pytest.raises(FileNotFoundError, match='gone'):
            merge_checkpoint(cfg, str(tmp_path / 'gone.pth'), str(tmp_path / 'plain.pth'))
        merge_checkpoint(cfg, path, str(tmp_path / 'plain.pth'))
        merge_checkpoint(cfg, path, str(tmp_path / 'plain.pth'))

    def test_another_model(self, run, tmp_path):
        cfg, _, path = run
        with pytest.raises(ValueError, match='num_classes|head.fc'):
            cfg.model.head.num_classes = 4
            merge_checkpoint(cfg, path, str(tmp_path / 'plain.pth'))
        plain = config(dict(type='VisionTransformer', **VIT))
        state = {k: v for k, v in torch.load(path, weights_only=True)['state_dict'].items()
                 if not k.rpartition('.')[2].startswith(('rlrr_', 'ssf_'))}  # fmt: skip
        torch.save(dict(state_dict=state), path)
        with pytest.raises(ValueError, match='no adapters'):
            merge_checkpoint(plain, path, str(tmp_path / 'plain.pth'))

    @pytest.mark.parametrize('targets', [['reduction'], ['stages.0.downsample.reduction']])
    def test_biases_where_the_plain_backbone_has_none(self, targets, tmp_path):
        three = dict(embed_dims=8, depths=[1, 1, 1], num_heads=[1, 2, 2])
        cfg = config(dict(
            type='AdaptedBackbone', kind='rlrr', targets=targets, lora_ranks=1,
            backbone=dict(type='SwinTransformer', **SWIN | dict(arch=three, out_indices=(2,)))
        ))  # fmt: skip
        cfg.model.head.in_channels = 32
        cfg.model.neck = dict(type='GlobalAveragePooling')
        model = MODELS.build(copy.deepcopy(cfg.model))
        with torch.no_grad():
            for layer in adapted_layers(model).values():
                layer.rlrr_bias.fill_(0.5)
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'epoch_1.pth')
        weights, plain = merge_checkpoint(cfg, str(tmp_path / 'epoch_1.pth'), str(tmp_path / 'plain.pth'))
        assert Config.fromfile(plain).model.backbone.stage_cfgs.downsample_cfg.bias
        last = torch.load(weights, weights_only=True)['state_dict']['backbone.stages.1.downsample.reduction.bias']
        assert last.dtype == torch.float32 and bool(last.any()) == (targets == ['reduction'])

    def test_biases_without_a_place(self, tmp_path):
        cfg = config(dict(SWIN_V2, kind='rlrr', lora_ranks=1))
        model = MODELS.build(copy.deepcopy(cfg.model))
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'epoch_1.pth')
        with pytest.raises(ValueError, match='reduction.bias.*switch it on'):
            merge_checkpoint(cfg, str(tmp_path / 'epoch_1.pth'), str(tmp_path / 'plain.pth'))

    def test_what_computes_something_else_is_not_written(self, run, tmp_path, monkeypatch):
        cfg, model, path = run

        def wrong(model):
            state = right(model)
            state['backbone.layers.1.ffn.layers.1.bias'][0] += 1e-6
            return state

        right = merge.merged_state_dict
        monkeypatch.setattr(merge, 'merged_state_dict', wrong)
        with pytest.raises(ValueError, match='does not compute the same'):
            merge_checkpoint(cfg, path, str(tmp_path / 'plain.pth'))
        assert not (tmp_path / 'plain.pth').exists() and not (tmp_path / 'plain.py').exists()

    def test_adapters_are_what_is_merged(self, run):
        assert len(adapter_modules(run[1])) == 2 * 6 + 2
