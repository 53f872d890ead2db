"""The learning rates of the configs against those of the published code, iteration by iteration."""

import json

import catalogue
import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope

SR_LORA, RLRR = 'sr_lora/lr_schedules.json', 'rlrr/lr_traces.json'
BASE = 'sr_lora/sr-lora_{}_in21k-pre_1xb4-coslr-20e_{}'
CASES = [
    # config, key of the golden file, iterations an epoch, tolerance: relative and absolute
    (BASE.format('vit-base-p16', 'medfmc-chest'), 'vit_medfm_chest_1shot(19 img,bs4->5 it/epoch)', 5, 1e-12, 0),
    (BASE.format('vit-large-p16', 'vtab1k-eurosat'), 'vit_vtab_1shot_eurosat(10 img,bs4->3 it/epoch)', 3, 1e-12, 0),
    # mmengine's schedulers change the learning rate one after the other, and a cosine that does not end at 0 takes a
    # learning rate lowered by the warm-up for one nearer to its end.
    (BASE.format('swin-base-w12', 'vtab1k-svhn'), 'swin_vtab(5 it/epoch)', 5, 1e-3, 0),
    (BASE.replace('/', '/published-code/', 1).format('swin-base-w12', 'medfmc-chest') + '_published-code',
     'swin_medfm_chest_1shot(5 it/epoch; warmup_iters=20 BY EPOCH of 20 epochs)', 5, 0, 1e-5),
]  # yapf: disable


def learning_rates(cfg, epoch_length):
    """Return the learning rate of each iteration of a run."""
    init_default_scope('mmpretrain')
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=lr)
    given = dict(optimizer=optimizer, epoch_length=epoch_length)
    schedulers = [PARAM_SCHEDULERS.build(part, default_args=given) for part in cfg.param_scheduler]
    rates = []
    for _ in range(cfg.train_cfg.max_epochs * epoch_length):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


@pytest.mark.parametrize('name, key, epoch_length, rel, abs', CASES, ids=[case[1] for case in CASES])
def test_every_learning_rate(golden, name, key, epoch_length, rel, abs):
    wanted = json.loads((golden / SR_LORA).read_text())[key]
    assert learning_rates(catalogue.load(name), epoch_length) == pytest.approx(wanted, rel=rel, abs=abs)


@pytest.mark.parametrize('end, key', [
    ('cos-110e_vtab1k-cifar', 'vtab_100_lr3e-3'), ('cos-60e_fgvc-flowers', 'fgvc_50_lr3e-3_timm'),
    ('restart-60e_fgvc-cub', 'fgvc_50_lr3e-3_CUB_restarts'),
    ('restart-110e_fgvc-cars_mixup', 'fgvc_aug_100_lr3e-3_restarts'),
])  # yapf: disable
def test_every_learning_rate_of_rlrr(golden, end, key):
    cfg = catalogue.load(f'rlrr/rlrr_vit-base-p16_in21k-pre_1xb32-late{end}')
    wanted = json.loads((golden / RLRR).read_text())[key]
    assert cfg.optim_wrapper.optimizer.lr == 3e-3 and len(wanted) == cfg.train_cfg.max_epochs
    assert learning_rates(cfg, 1) == pytest.approx(wanted, rel=1e-12)


def test_all_configs_of_rlrr_share_these_schedules():
    restarts = {'vtab1k': None, 'cub': 5, 'dogs': 5, 'nabirds': None, 'flowers': None, 'cars': None}
    for name in catalogue.rlrr():
        (part,) = catalogue.load(name).param_scheduler
        data = name.split('fgvc-')[-1] if 'fgvc' in name else 'vtab1k'
        if data.endswith('_mixup'):
            assert part == dict(type='LateCosineRestartLR', period=10, factor=2)
        elif restarts[data]:
            assert part == dict(type='LateCosineRestartLR', period=5)
        else:
            length = 100 if data == 'vtab1k' else 50
            assert part == dict(
                type='LateWarmupCosineLR', T_max=length, warmup=10, warmup_lr=1e-7, eta_min=1e-8)


@pytest.mark.parametrize('name', catalogue.distinct(lambda cfg: cfg.param_scheduler, catalogue.baselines()),
                         ids=catalogue.short)
def test_the_baselines_warm_up_for_ten_epochs_and_end_at_zero(name):
    cfg = catalogue.load(name)
    rates, lr = learning_rates(cfg, 16), cfg.optim_wrapper.optimizer.lr
    assert len(rates) == 100 * 16 and rates[0] == pytest.approx(lr * cfg.param_scheduler[0].start_factor)
    rise, fall = rates[:160], rates[160:]
    assert max(rates) == pytest.approx(lr) == rates[160]
    assert rise == sorted(rise) and fall == sorted(fall, reverse=True) and fall[720] == pytest.approx(lr / 2, rel=1e-6)
    assert 0 <= rates[-1] < 1e-5 * lr


def test_all_configs_share_these_schedules():
    checked = [catalogue.load(name).param_scheduler for name, *_ in CASES]
    assert all(catalogue.load(name).param_scheduler in checked for name in catalogue.sr_lora())


@pytest.mark.parametrize('part, options', [
    ('vit', dict(lr=1e-3, weight_decay=0.05, clip=1.0)), ('swin', dict(lr=1e-3, weight_decay=0.05, clip=5.0)),
])
def test_optimizers_are_the_published_ones(part, options):
    for name in catalogue.sr_lora():
        wrapper = catalogue.load(name).optim_wrapper
        if part in name and 'published-code' not in name:
            found = wrapper.optimizer
            assert found.type == 'AdamW' and wrapper.clip_grad == dict(max_norm=options['clip'])
            assert (found.lr, found.weight_decay) == (options['lr'], options['weight_decay'])


def test_what_the_published_code_does_otherwise():
    def label(name):
        parts = name.split('_')
        return f'{parts[2]} {parts[-2]}'

    found = {label(name): catalogue.load(name).optim_wrapper.optimizer
             for name in catalogue.sr_lora() if 'published-code' in name}
    assert {key: (o.lr, o.weight_decay) for key, o in found.items()} == {
        'vit-base-p16 medfmc-chest': (1e-3, 0.3), 'vit-base-p16 medfmc-colon': (1e-3, 0.3),
        'vit-base-p16 medfmc-endo': (1e-3, 0.3), 'vit-base-p16 vtab1k-eurosat': (1e-3, 0.05),
        'vit-base-p16 vtab1k-diabetic-retinopathy': (0.5, 0.05), 'swin-base-w12 medfmc-chest': (1e-3, 0.05),
        'swin-base-w12 medfmc-colon': (1e-3, 0.05), 'swin-base-w12 medfmc-endo': (1e-3, 0.05),
        'swin-base-w12 vtab1k-diabetic-retinopathy': (0.5, 0.05), 'swin-base-w12 vtab1k-patch-camelyon': (0.5, 0.05),
    }  # yapf: disable
