"""Averaged weights: the average is that of timm, and it is what is validated, saved, tested and recorded."""

import copy
import json
import shutil

import pytest
import tiny
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS
from tiny import images, quick  # noqa: F401

from mmlora.apis import test as run_test
from mmlora.apis import train

MIX = dict(
    model__train_cfg=dict(_delete_=True, augments=dict(type='MixupCutMix')), model__head__loss__use_soft=True,
)
BACKBONES = {
    'RLRR': dict(model__backbone__type='RLRRViT', model__backbone__lora_ranks=1),
    'LoRA': dict(model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks=2),
    'RLRR, merged norm': dict(
        model__backbone=dict(
            _delete_=True, type='AdaptedBackbone', kind='rlrr', targets=['qkv', 'proj'], lora_slices='qkv',
            scale_shift=['ln1', 'ln2'], backbone=dict(
                type='VisionTransformer', img_size=32, patch_size=16,
                arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))),
    ),
}  # yapf: disable
SPU = dict(type='SPUHook')


def config(images, folder, momentum=0.2, hooks=(), **options):  # noqa: F811
    ema = dict(type='EMAHook', momentum=momentum, update_buffers=True)
    return tiny.tiny_config(images, folder, custom_hooks=[ema, *hooks], **options)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).double()


def test_the_average_is_timms():
    model_ema = pytest.importorskip('timm.utils').ModelEmaV2
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    ours, theirs = ExponentialMovingAverage(model, momentum=0.0002, update_buffers=True), model_ema(model, decay=0.9998)
    for step in range(8):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8).double()).square().mean().backward()
        optimizer.step()
        ours.update_parameters(model)
        # The one difference: mmengine begins with the weights after the first step, timm with those before it.
        theirs.set(model) if step == 0 else theirs.update(model)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(ours.module.state_dict()[name], value, rtol=0, atol=1e-12)
            assert not torch.equal(value, model.state_dict()[name]), name


def test_the_runtime_of_the_configs(root):
    base = root / 'configs' / '_base_'
    cfg, plain = Config.fromfile(base / 'ema_runtime.py'), Config.fromfile(base / 'default_runtime.py')
    *others, hook = cfg.custom_hooks
    assert others == plain.custom_hooks
    assert dict(hook) == dict(type='EMAHook', momentum=pytest.approx(1 - 0.9998), update_buffers=True)
    assert HOOKS.build(hook).ema_cfg['momentum'] == hook.momentum
    assert {k: v for k, v in cfg.items() if k != 'custom_hooks'} == {k: v for k, v in plain.items()
                                                                     if k != 'custom_hooks'}


@HOOKS.register_module(force=True)
class KeepStates(Hook):
    """Keep the weights before the first step and after each."""

    priority = 'LOWEST'
    states = []

    def before_train(self, runner):
        KeepStates.states = [copy.deepcopy(runner.model.state_dict())]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        KeepStates.states.append(copy.deepcopy(runner.model.state_dict()))


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('load', [False, True], ids=['fresh', 'load_from'])
def test_frozen_weights_stay_and_learned_ones_are_averaged(tmp_path, images, name, load):  # noqa: F811
    options = dict(BACKBONES[name], train_cfg__max_epochs=2, **MIX)
    if load:  # Weights of a plain backbone, without adapters and head.
        cfg = config(images, tmp_path, **options)
        kind = dict(cfg.model.backbone.get('backbone') or cfg.model.backbone, type='VisionTransformer')
        kind.pop('lora_ranks', None)
        plain = MODELS.build(dict(kind, _scope_='mmpretrain'))
        torch.save({'state_dict': {f'backbone.{k}': v for k, v in plain.state_dict().items()}}, tmp_path / 'plain.pth')
        options['load_from'] = str(tmp_path / 'plain.pth')
    runner = train(config(images, tmp_path, hooks=[dict(type='KeepStates')], **options))
    average = {k: v.clone() for k, v in KeepStates.states[1].items()}
    for state in KeepStates.states[2:]:
        average = {k: v + 0.2 * (state[k] - v) for k, v in average.items()}
    saved = tiny.load(tmp_path / 'epoch_2.pth')
    learned = {n for n, p in runner.model.named_parameters() if p.requires_grad}
    assert learned and set(average) - learned
    for key, value in saved['state_dict'].items():
        raw = saved['ema_state_dict'][f'module.{key}']  # Training goes on from these.
        assert torch.equal(raw, KeepStates.states[-1][key])
        if key in learned:
            torch.testing.assert_close(value, average[key], rtol=0, atol=1e-5)
            assert not torch.equal(value, raw), key
        else:
            assert torch.equal(value, KeepStates.states[0][key]), key
            if load:
                assert torch.equal(value, plain.state_dict()[key.removeprefix('backbone.')])


@pytest.mark.parametrize('name', ['RLRR', 'LoRA'])
def test_the_average_is_validated_saved_tested_and_recorded(tmp_path, images, name):  # noqa: F811
    cfg = config(images, tmp_path / 'run', momentum=0.02, default_hooks__checkpoint__save_best='auto',
                 **BACKBONES[name])
    runner = train(cfg)
    scores = runner.message_hub.get_scalar('val/accuracy/top1').data[0]
    [best] = (tmp_path / 'run').glob('best_*.pth')
    assert run_test(cfg, str(best))['accuracy/top1'] == max(scores)
    assert run_test(cfg, str(tmp_path / 'run' / 'epoch_3.pth'))['accuracy/top1'] == scores[-1]
    # The same without the hook, so it is the average that lies where the weights are looked for.
    bare = tiny.tiny_config(images, tmp_path / 'bare', **BACKBONES[name])
    assert run_test(bare, str(tmp_path / 'run' / 'epoch_3.pth'), record=False)['accuracy/top1'] == scores[-1]
    raw = tiny.load(tmp_path / 'run' / 'epoch_3.pth')
    raw['state_dict'] = {k.removeprefix('module.'): v for k, v in raw.pop('ema_state_dict').items() if k != 'steps'}
    torch.save(raw, tmp_path / 'raw.pth')
    assert run_test(bare, str(tmp_path / 'raw.pth'), record=False)['accuracy/top1'] != scores[-1]
    entries = json.loads((tmp_path / 'run' / 'results.json').read_text())['results']
    assert {entry['protocol']['averaged'] for entry in entries} == {'ExponentialMovingAverage, momentum 0.02'}
    assert len(entries) == 2


def test_without_an_average_none_is_recorded(tmp_path, images):  # noqa: F811
    cfg = tiny.tiny_config(images, tmp_path, train_cfg__max_epochs=1)
    train(cfg)
    run_test(cfg, str(tmp_path / 'epoch_1.pth'))
    [entry] = json.loads((tmp_path / 'results.json').read_text())['results']
    assert entry['protocol']['averaged'] is None


@pytest.mark.parametrize(('name', 'hooks'), [('RLRR', ()), ('LoRA', (SPU,))], ids=['RLRR', 'LoRA with SPU'])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, images, name, hooks):  # noqa: F811
    by_iter = dict(default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4))
    options = dict(BACKBONES[name], **MIX, **by_iter)
    train(config(images, tmp_path / 'whole', hooks=hooks, **options))
    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'whole' / 'iter_8.pth', tmp_path / 'resumed')
    train(config(images, tmp_path / 'resumed', hooks=hooks, **options), resume=str(tmp_path / 'resumed' / 'iter_8.pth'))
    assert not tiny.differing_runs(tmp_path / 'whole' / 'iter_15.pth', tmp_path / 'resumed' / 'iter_15.pth')
