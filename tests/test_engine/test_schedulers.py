"""The learning rates of the published RLRR code, epoch by epoch, and which parameters decay."""

import copy
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import MODELS
from rlrr_names import SWIN, VIT, swin_name, vit_name

TIMM = dict(type='LateWarmupCosineLR')
RESTARTS = dict(type='LateCosineRestartLR')
CASES = {
    'vtab_100_lr3e-3': dict(TIMM, T_max=100),
    'fgvc_50_lr3e-3_timm': dict(TIMM, T_max=50),
    'fgvc_50_lr3e-3_CUB_restarts': dict(RESTARTS, period=5),
    'fgvc_aug_100_lr3e-3_restarts': dict(RESTARTS, period=10, factor=2),
}


def scheduler(cfg: dict, lr: float = 3e-3):
    init_default_scope('mmpretrain')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    return optimizer, PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer))


def rates(optimizer, schedule, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize('key', CASES)
def test_every_epoch(golden, key):
    wanted = json.loads((golden / 'rlrr' / 'lr_traces.json').read_text())[key]
    assert rates(*scheduler(CASES[key]), len(wanted)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize('key', CASES)
def test_resuming(key):
    whole = rates(*scheduler(CASES[key]), 60)
    optimizer, schedule = scheduler(CASES[key])
    rates(optimizer, schedule, 23)
    state, states = schedule.state_dict(), optimizer.state_dict()
    optimizer, schedule = scheduler(CASES[key])
    optimizer.load_state_dict(states)
    schedule.load_state_dict(state)
    assert rates(optimizer, schedule, 37) == whole[23:]


@pytest.mark.parametrize(('cfg', 'match'), [
    (dict(TIMM, T_max=10), r'0\.\.9 for T_max=10, got 10'), (dict(TIMM, T_max=10, warmup=-1), 'got -1'),
    (dict(RESTARTS, period=0), 'period.*got 0'), (dict(RESTARTS, period=5, factor=0), 'factor.*got 0'),
])  # fmt: skip
def test_bad_arguments(cfg, match):
    with pytest.raises(ValueError, match=match):
        scheduler(cfg)


@pytest.mark.parametrize(('name', 'key', 'lr', 'decay'), [
    ('rlrr_adamw_110e', 'vtab_100_lr3e-3', 1e-3, 5e-5), ('rlrr_fgvc_50e', 'fgvc_50_lr3e-3_timm', 3e-3, 5e-2),
    ('rlrr_fgvc_restart_50e', 'fgvc_50_lr3e-3_CUB_restarts', 3e-3, 5e-2),
    ('rlrr_fgvc_aug_100e', 'fgvc_aug_100_lr3e-3_restarts', 3e-3, 5e-2),
])  # fmt: skip
def test_the_schedules_of_the_configs(golden, root, name, key, lr, decay):
    cfg = Config.fromfile(root / 'configs' / '_base_' / 'schedules' / f'{name}.py')
    wanted = json.loads((golden / 'rlrr' / 'lr_traces.json').read_text())[key]
    (part,) = cfg.param_scheduler
    assert rates(*scheduler(part), cfg.train_cfg.max_epochs) == pytest.approx(wanted, rel=1e-12)
    assert cfg.train_cfg.max_epochs == len(wanted) and cfg.train_cfg.by_epoch
    wrapper = cfg.optim_wrapper
    assert dict(wrapper.optimizer) == dict(type='AdamW', lr=lr, weight_decay=decay)
    assert wrapper.paramwise_cfg.custom_keys == {'.rlrr_bias': dict(decay_mult=0.0)}


@pytest.mark.parametrize(('kind', 'name', 'ours', 'shape'), [
    ('vit', 'vit-base-p16', vit_name, VIT), ('swin', 'swin-base-w7', swin_name, SWIN),
])  # fmt: skip
def test_what_decays(golden, root, kind, name, ours, shape):
    init_default_scope('mmpretrain')
    groups = json.loads((golden / 'rlrr' / f'{kind}_tiny_param_groups.json').read_text())
    base = root / 'configs' / '_base_'
    cfg = Config.fromfile(base / 'schedules' / 'rlrr_adamw_110e.py')
    model = copy.deepcopy(Config.fromfile(base / 'models' / f'rlrr_{name}.py').model)
    model.backbone.update(shape, init_cfg=None)
    model.head.update(in_channels=8 if kind == 'vit' else 16, num_classes=3)
    model = MODELS.build(model)
    model.init_weights()
    assert model.head.fc.weight.any() == (kind == 'swin') and not model.head.fc.bias.any()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decay = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    for key, value in (('decay', 5e-5), ('no_decay', 0)):
        wanted = {f'head.fc.{n[5:]}' if n.startswith('head.') else f'backbone.{ours(n)}' for n in groups[key]}
        learned = {name for name, p in model.named_parameters() if p.requires_grad and decay[id(p)] == value}
        assert learned == wanted, key
