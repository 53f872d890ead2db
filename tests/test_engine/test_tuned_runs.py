"""Runs with backbones that are adapted as a whole: what is trained, saved, resumed, tested and merged."""

import pytest
import tiny
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from tiny import images, quick  # noqa: F401

from mmlora.adapters import adapter_parameter_names
from mmlora.apis import merge_checkpoint, settle_ranks, train
from mmlora.apis import test as run_test
from mmlora.apis.rank_report import ranks_from_config
from mmlora.apis.records import read_records
from mmlora.apis.truncate import truncate_checkpoint

INNER = dict(
    type='VisionTransformer', img_size=32, patch_size=16, drop_rate=0.2, drop_path_rate=0.2,
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
)  # fmt: skip
KINDS = {
    'SSF': dict(),
    'BitFit': dict(),
    'LinearProbe': dict(),
    'FullFineTune': dict(),
    'LayerNormTune': dict(),
    'VPT': dict(num_tokens=2, deep=False),
    'Houlsby': dict(bottleneck=4, dropout=0.1),
    'AdaptFormer': dict(bottleneck=4),
}
MERGED = ('SSF', 'BitFit', 'LinearProbe', 'FullFineTune', 'LayerNormTune')


def config(images, folder, kind: str, **options) -> Config:  # noqa: F811
    backbone = dict(type='AdaptedBackbone', backbone=INNER, kind=kind, adapter_cfg=KINDS[kind], _delete_=True)
    return tiny.tiny_config(images, folder, model__backbone=backbone, method=kind, **options)


@pytest.mark.parametrize('kind', KINDS)
def test_a_run(tmp_path, images, kind):  # noqa: F811
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    ema = dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)]) if kind == 'VPT' else {}
    runner = train(config(images, whole, kind, **ema))
    backbone = runner.model.backbone
    learned = backbone.tuning.learned(backbone)
    count = sum(backbone.get_parameter(name).numel() for name in learned) + 16 * 3 + 3
    assert f'{count:,} of ' in (whole / runner.timestamp / f'{runner.timestamp}.log').read_text()
    first, last = (tiny.load(whole / f'epoch_{epoch}.pth')['state_dict'] for epoch in (1, 3))
    changed = {key.removeprefix('backbone.') for key in first if not torch.equal(first[key], last[key])}
    assert changed == learned | {'head.layers.head.weight', 'head.layers.head.bias'}

    resumed.mkdir()
    torch.save(tiny.load(whole / 'epoch_1.pth'), resumed / 'epoch_1.pth')
    train(config(images, resumed, kind, **ema), resume=str(resumed / 'epoch_1.pth'))
    assert not tiny.differing_runs(whole / 'epoch_3.pth', resumed / 'epoch_3.pth')

    checkpoint = str(whole / 'epoch_3.pth')
    metrics = run_test(Config.fromfile(whole / 'tiny_vit.py'), checkpoint, work_dir=str(tmp_path / 'test'))
    (record,) = read_records(whole / 'results.json')
    assert (record['method'], record['trainable_parameters']) == (kind, count)

    out = str(tmp_path / 'plain.pth')
    if kind in MERGED:
        weights, plain = merge_checkpoint(config(images, whole, kind), checkpoint, out)
        assert kind in torch.load(weights, weights_only=True)['meta']['mmlora']['merged']
        cfg = Config.fromfile(plain)
        assert cfg.model.backbone.type == 'VisionTransformer'
        MODELS.build(cfg.model).load_state_dict(torch.load(weights, weights_only=True)['state_dict'], strict=True)
        assert run_test(cfg, str(weights), work_dir=str(tmp_path / 'merged')) == metrics
    else:
        with pytest.raises(ValueError, match=f'{kind} of backbone cannot be merged: its'):
            merge_checkpoint(config(images, whole, kind), checkpoint, out)


def test_pre_trained_weights_and_other_checkpoints(tmp_path, images, whole_run):  # noqa: F811
    plain = str(whole_run / 'epoch_3.pth')
    fresh = config(images, tmp_path / 'vpt', 'VPT', load_from=plain, train_cfg__max_epochs=1)
    runner = train(fresh)
    assert torch.equal(
        runner.model.backbone.layers[0].attn.qkv.weight,
        tiny.load(whole_run / 'epoch_3.pth')['state_dict']['backbone.layers.0.attn.qkv.weight'],
    )
    with pytest.raises(ValueError, match='adapts other modules|does not fit'):
        run_test(config(images, tmp_path / 'other', 'SSF'), str(tmp_path / 'vpt' / 'epoch_1.pth'))


def test_another_scale_is_refused(tmp_path, images):  # noqa: F811
    train(config(images, tmp_path, 'AdaptFormer', train_cfg__max_epochs=1))
    cfg = config(images, tmp_path, 'AdaptFormer')
    cfg.model.backbone.adapter_cfg.scale = 0.2
    with pytest.raises(ValueError, match=r'scaling 0.1, the model has 0.2: set .* or scale in adapter_cfg'):
        run_test(cfg, str(tmp_path / 'epoch_1.pth'))


def test_ranks_are_not_settled_where_there_are_none(tmp_path, images):  # noqa: F811
    cfg = config(images, tmp_path, 'VPT')
    assert settle_ranks(cfg) is None and 'lora_ranks' not in cfg.model.backbone
    cfg = config(images, tmp_path, 'VPT', custom_hooks=[dict(type='StableRankHook')])
    with pytest.raises(ValueError, match="StableRankHook needs ranks, and kind='VPT' has none"):
        settle_ranks(cfg)


@pytest.mark.parametrize('kind', ['SSF', 'VPT', 'AdaptFormer'])
def test_compiled_backbones_compute_the_same(kind):
    torch.manual_seed(0)
    model = MODELS.build(dict(type='AdaptedBackbone', backbone=INNER, kind=kind, adapter_cfg=KINDS[kind]))
    model.eval()
    with torch.no_grad():
        for name in adapter_parameter_names(model):
            model.get_parameter(name).add_(0.1)
    x = torch.randn(2, 3, 32, 32)
    wanted = model(x)[-1]
    model.compile(backend='eager')
    torch.testing.assert_close(model(x)[-1], wanted, rtol=1e-5, atol=1e-6)
    assert not any('_orig_mod' in key for key in model.state_dict())


def test_what_is_about_ranks_refuses_kinds_without(tmp_path, images):  # noqa: F811
    cfg = config(images, tmp_path, 'Houlsby')
    with pytest.raises(ValueError, match="kind='Houlsby' adapts no layers with ranks"):
        ranks_from_config(cfg, 'stable_rank')
    torch.save(dict(state_dict={}), tmp_path / 'x.pth')
    with pytest.raises(TypeError, match="kind='Houlsby' is a kind of adapter that has no sub-ranks"):
        truncate_checkpoint(cfg, str(tmp_path / 'x.pth'), str(tmp_path / 'cut.pth'), rank=1)
