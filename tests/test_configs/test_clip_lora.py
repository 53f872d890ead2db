"""configs/clip_lora: the grid of files, the published settings, the length of runs, and what learns at full size."""

import json

import catalogue
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import MODELS

from mmlora.apis import prepare_test_cfg, prepare_train_cfg, settle_variables
from mmlora.apis.sweep_plan import make_jobs
from mmlora.datasets import COOP_SETS, IMAGENET_SHIFTS
from mmlora.models.backbones.skeleton import Skeleton

PREFIX = 'clip_lora/clip-lora_'
ARCHS = {'vit-base-p16': ('ViT-B/16', 184_320), 'vit-base-p32': ('ViT-B/32', 184_320),
         'vit-large-p14': ('ViT-L/14', 405_504)}  # fmt: skip
TRAINED = {(arch, name): f'{PREFIX}{arch}_1xb32-cosine-500i-per-shot_{name.replace("_", "-")}'
           for arch in ARCHS for name in COOP_SETS}
SHIFTED = {(arch, name): f'{PREFIX}{arch}_{name.replace("_", "-")}' for arch in ARCHS for name in IMAGENET_SHIFTS}
VARIANT = f'{TRAINED["vit-large-p14", "imagenet"]}_21-blocks'
OWN = f'{PREFIX}vit-base-p16_own-images'
OURS = [name for name in catalogue.clip() if name.startswith(PREFIX)]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def settled(name, **options):
    cfg = catalogue.load(name)
    cfg.merge_from_dict(options)
    settle_variables(cfg)
    return cfg


def test_the_grid_is_complete():
    assert len(TRAINED) == 33 and len(SHIFTED) == 12
    assert sorted(OURS) == sorted([*TRAINED.values(), *SHIFTED.values(), VARIANT, OWN])
    for name in catalogue.clip():
        assert 3 <= len((catalogue.CONFIGS / f'{name}.py').read_text().splitlines()) <= 10


@pytest.mark.parametrize('cases', [TRAINED, SHIFTED], ids=['trained', 'shifted'])
def test_a_name_says_what_the_config_holds(cases):
    for (arch, data), name in cases.items():
        cfg = settled(name)
        assert (cfg.method, cfg.dataset_name, cfg.model.arch) == ('CLIP-LoRA', data, ARCHS[arch][0])
        assert cfg.model.init_cfg == dict(
            type='Pretrained', checkpoint=f'weights/{ARCHS[arch][0].replace("/", "-")}.pt')
        test = cfg.test_dataloader.dataset
        assert (test.type, test.name, test.split, test.data_root) == ('CoOpDataset', data, 'test', 'data/coop')
        assert test.get('label_space', 'own') == 'own' and test.get('templates', 'set') == 'set'
        assert cfg.val_dataloader is cfg.val_evaluator is cfg.get('val_cfg') is None
        if cases is SHIFTED:
            assert cfg.train_dataloader is None and 'optim_wrapper' not in cfg and cfg.test_cfg == {}
        else:
            train = cfg.train_dataloader.dataset
            assert (train.name, train.split, train.sampling, train.n_shot, train.seed) == (
                data, 'train', 'clip_lora', 16, 1)


@pytest.mark.parametrize('name', [*TRAINED.values(), VARIANT, OWN], ids=catalogue.short)
def test_the_published_settings(name):
    cfg = settled(name)
    model = {key: cfg.model[key] for key in ('encoder', 'params', 'lora_rank', 'lora_alpha', 'lora_scaling',
                                             'lora_dropout', 'templates', 'logit_scale')}
    assert model == dict(encoder='both', params='qkv', lora_rank=2, lora_alpha=1, lora_scaling='alpha/sqrt(r)',
                         lora_dropout=0.25, templates='a photo of a {}.', logit_scale=100.0)
    assert cfg.model.layers == (dict(vision=list(range(21)), text='all') if name == VARIANT else 'all')
    assert cfg.optim_wrapper == dict(
        optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8))
    assert (cfg.train_dataloader.batch_size, cfg.test_dataloader.batch_size) == (32, 256)
    assert [hook.type for hook in cfg.custom_hooks][:2] == ['StepSeedHook', 'ClassNamesHook']
    assert cfg.randomness == dict(seed=1, deterministic=False)


@pytest.mark.parametrize('shot', [1, 2, 4, 8, 16])
def test_shot_alone_sets_the_length_and_every_learning_rate(golden, shot):
    wanted = json.loads((golden / 'clip_lora' / 'cosine_lr.json').read_text())
    cfg = settled(TRAINED['vit-base-p16', 'dtd'], shot=shot)
    total = 500 * shot
    assert cfg.train_cfg == dict(by_epoch=False, max_iters=total, val_interval=total)
    assert cfg.default_hooks.checkpoint == dict(
        type='mmlora.CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=2)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=cfg.optim_wrapper.optimizer.lr)
    scheduler = PARAM_SCHEDULERS.build(cfg.param_scheduler[0], default_args=dict(optimizer=optimizer))
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    assert {int(step): rates[int(step)] for step in wanted[str(total)]} == pytest.approx(
        {int(step): rate for step, rate in wanted[str(total)].items()}, rel=1e-9)


@pytest.mark.parametrize('options, total', [
    (dict(max_iters=700), 700), ({'max_iters.per_shot': 300, 'shot': 2}, 600), (dict(shot=None, max_iters=900), 900),
])
def test_the_length_can_be_given(options, total):
    cfg = prepare_train_cfg(settled_later(TRAINED['vit-base-p16', 'dtd'], options))
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].T_max == cfg.param_scheduler[0].end == total
    dumped = Config.fromstring(cfg.pretty_text, '.py')
    assert prepare_train_cfg(dumped).train_cfg.max_iters == total


def settled_later(name, options):
    cfg = catalogue.load(name)
    cfg.merge_from_dict(options)
    return cfg


def test_all_images_need_a_length():
    with pytest.raises(ValueError, match='shot=None takes all: say how long to train, as in max_iters=10000'):
        settled(TRAINED['vit-base-p16', 'dtd'], shot=None)


FOLDER = 'work_dirs/clip-lora/vit-base-p16/dtd/'


@pytest.mark.parametrize('options, folder', [
    ({}, '16shots/seed1'), ({'shot': 4, 'randomness.seed': 3}, '4shots/seed3'), (dict(tune=True), '16shots/seed1_tune'),
    (dict(base_to_new=True), '16shots/seed1_base_to_new'),
    (dict(base_to_new=True, test_subset='base'), '16shots/seed1_test_subset-base_base_to_new'),
    (dict(max_iters=700), '16shots/seed1'),
    (dict(shot=None, max_iters=9), 'fullshots/seed1'), (dict(data_root='/disk/sets'), '16shots/seed1'),
])
def test_where_runs_go(options, folder):
    cfg = settled_later(TRAINED['vit-base-p16', 'dtd'], options)
    trained, tested = prepare_train_cfg(cfg), prepare_test_cfg(cfg, 'some.pth')
    assert trained.work_dir == tested.work_dir == FOLDER + folder
    root = options.get('data_root', 'data/coop')
    assert trained.train_dataloader.dataset.dataset.data_root == tested.test_dataloader.dataset.data_root == root


def test_no_two_configs_share_a_folder():
    folders = {}
    for name in catalogue.clip():
        folder = prepare_test_cfg(catalogue.load(name), 'some.pth').work_dir
        assert folder not in folders, (name, folders[folder])
        folders[folder] = name


def test_the_sweep_of_the_readme_has_runs_of_its_own():
    path = catalogue.CONFIGS / f'{TRAINED["vit-base-p16", "dtd"]}.py'
    pairs = [(path, {'shot': shot, 'randomness.seed': seed}) for shot in (1, 4) for seed in (1, 2)]
    jobs = make_jobs(pairs)
    assert len({job.key for job in jobs}) == 4 and jobs[2].settled['train_cfg']['max_iters'] == 2000
    assert 'run_folder' not in jobs[0].settled


@pytest.mark.parametrize('name', catalogue.distinct(lambda cfg: cfg.model.to_dict(), OURS), ids=catalogue.short)
def test_what_learns_at_full_size(name):
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = settled(name)
    cfg.model.tokenizer = dict(type='WordTokenizer', vocabulary=['a'])
    cfg.model.pop('init_cfg')
    with Skeleton():
        model = MODELS.build(cfg.model)
    learned = {key: p for key, p in model.named_parameters() if p.requires_grad}
    (wanted,) = [count for arch, count in ARCHS.values() if arch == cfg.model.arch]
    assert sum(p.numel() for p in learned.values()) == wanted - (3 * 3 * 2 * 2 * 1024 if name == VARIANT else 0)
    assert all('lora_' in key for key in learned)
    if 'optim_wrapper' in cfg:
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        assert {id(p) for group in groups for p in group['params'] if p.requires_grad} == set(map(id, learned.values()))
        assert {group['weight_decay'] for group in groups} == {0.01}
