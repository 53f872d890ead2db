"""The configs of LoRA-Recycle: what the published settings say, and runs from a pool to a test."""

import numpy as np
import pytest
import torch
from catalogue import CONFIGS
from layouts import write_image
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from recycle_pool import write_pool

from mmlora.apis import settle_variables, test, train
from mmlora.apis.hub_plan import settle_hub
from mmlora.datasets import META_SETS
from mmlora.models.backbones.skeleton import Skeleton

FOLDER = CONFIGS / 'lora_recycle'
IN_DOMAIN, CROSS = list(META_SETS)[:4], list(META_SETS)[4:]
META = sorted(path.stem for path in FOLDER.glob('meta-lora_*.py'))
PROTOTYPES = sorted(path.stem for path in FOLDER.glob('prototypes_*.py'))


def load(name, **changes):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    cfg.merge_from_dict(changes)
    settle_variables(cfg)
    return cfg


def test_the_grid_is_complete():
    clip = [f'clip-vit-base-p{patch}_{name}-5way' for patch in (16, 32) for name in [*IN_DOMAIN, 'mix']]
    clip += [f'clip-vit-base-p16_mix-5way_{name}' for name in CROSS]
    micro = [f'vit-micro_glyphs-5way{end}' for end in ('', '_digits', '_from-average', '_sparse-75')]
    assert sorted(f'meta-lora_{name}' for name in [*clip, *micro]) == META
    wanted = [f'clip-vit-base-p16_{name}-5way' for name in META_SETS]
    wanted += ['vit-micro_digits-5way', 'vit-micro_glyphs-5way']
    assert sorted(f'prototypes_{name}' for name in wanted) == PROTOTYPES


@pytest.mark.parametrize('name', META)
def test_the_published_settings(name):
    cfg = load(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('Adam', 3e-3 if 'micro' in name else 1e-3)
    schedule = cfg.param_scheduler
    assert (schedule.period, schedule.warmup, schedule.min_ratio, schedule.by_epoch) == (100, 25, 0.01, False)
    sampler = cfg.train_dataloader.batch_sampler
    queries = 5 if 'micro' in name else 15
    assert (sampler.n_way, sampler.n_shot, sampler.n_query, cfg.train_dataloader.batch_size) == (5, 1, queries, 1)
    assert sampler.p_interpolate == (0.5 if 'average' in name else 1.0) and cfg.randomness.seed == 42
    assert cfg.train_cfg.max_iters == (100 if 'micro' in name else 240000)
    for metric, shot in zip(cfg.test_evaluator, (1, 5), strict=True):
        assert (metric.n_way, metric.n_shot, metric.n_query, metric.n_episodes) == (5, shot, 15, 600)
        assert (metric.metric, metric.prefix) == ('euclidean', f'{shot}-shot')
    assert cfg.model.head.distance == 'squared_euclidean'
    assert cfg.default_hooks.checkpoint.save_best == '1-shot/accuracy'
    assert load(name, shot=5).train_dataloader.batch_sampler.n_shot == 5


@pytest.mark.parametrize('name', META)
def test_the_pool_is_that_of_the_hub_and_the_test_is_of_other_classes(name):
    cfg = load(name)
    hub = cfg.custom_hooks[1].hub.rsplit('/', 1)[1]
    assert cfg.train_dataloader.dataset.dataset.pool == f'work_dirs/pools/{hub.removeprefix("hub_")}'
    of_hub = settle_hub(Config.fromfile(FOLDER / f'{hub}.py'))
    for key in ('mean', 'std', 'to_rgb'):
        assert cfg.data_preprocessor.get(key) == of_hub.data_preprocessor.get(key)
    turned = bool(cfg.data_preprocessor.get('to_rgb'))
    assert cfg.train_dataloader.dataset.dataset.channels == ('bgr' if turned else 'rgb')
    val, tested = ([one.split for one in part.dataset.get('dataset', [part.dataset])]
                   for part in (cfg.val_dataloader, cfg.test_dataloader))
    if 'micro' in name:
        assert (val, tested) == (['val'], ['test'])
    elif 'mix' in name:
        assert val == ['meta_val'] * 4 and set(tested) == {'all'}
    else:
        assert (val, tested) == (['meta_val'], ['meta_test'])
        assert cfg.test_dataloader.dataset.name == cfg.val_dataloader.dataset.name == cfg.dataset_name


@pytest.mark.parametrize('patch', [16, 32])
def test_the_published_number_of_parameters(patch):
    init_default_scope('mmpretrain')
    cfg = load(f'meta-lora_clip-vit-base-p{patch}_cub-5way')
    cfg.model.backbone.backbone.pop('init_cfg')
    with Skeleton():
        model = MODELS.build(cfg.model)
    learned = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(learned.values()) == 147456 and len(learned) == 48
    assert all('.lora_' in name and name.startswith('backbone.visual.') for name in learned)


def test_from_a_pool_to_a_test_on_letters(tmp_path):
    write_pool(tmp_path / 'pool', per_class=16, loras={'00000': [0, 1, 2, 3, 4]})
    cfg = Config.fromfile(FOLDER / 'meta-lora_vit-micro_glyphs-5way.py')
    cfg.merge_from_dict(dict(pool_folder=str(tmp_path / 'pool'), train_cfg=dict(max_iters=2, val_interval=2),
                             log_level='ERROR'))
    for part, script in ((cfg.val_dataloader, 'HEBREW'), (cfg.test_dataloader, 'ARMENIAN')):
        part.num_workers = 0
        part.dataset.update(scripts=[script], samples_per_class=8, subset='base')
    for metric in [*cfg.val_evaluator, *cfg.test_evaluator]:
        metric.update(n_episodes=5, n_query=3)
    work_dir = tmp_path / 'run'
    train(cfg, work_dir=str(work_dir))
    found = test(cfg, str(work_dir / 'iter_2.pth'), work_dir=str(work_dir / 'test'))
    assert 60 < found['1-shot/accuracy'] <= 100 and 60 < found['5-shot/accuracy'] <= 100
    assert list(work_dir.glob('best_1-shot_accuracy_iter_2.pth'))
    plain = Config.fromfile(FOLDER / 'prototypes_vit-micro_glyphs-5way.py')
    plain.test_dataloader, plain.test_evaluator, plain.log_level = cfg.test_dataloader, cfg.test_evaluator, 'ERROR'
    weights = CONFIGS.parent / 'mmlora' / 'assets' / 'vit-micro_glyphs.safetensors'
    found = test(plain, str(weights), work_dir=str(tmp_path / 'plain'), record=False)
    assert 60 < found['1-shot/accuracy'] <= 100


def test_prototypes_on_published_weights_of_clip(golden, tmp_path):
    """Weights of another library are taken as they are published, and images are read from folders."""
    arrays = np.load(golden / 'lora_recycle' / 'tiny_clip_vision_weights.npz')
    torch.save({name: torch.from_numpy(arrays[name]).float() for name in arrays}, tmp_path / 'clip.pth')
    for label, name in enumerate(META_SETS['eurosat'].classes('all')):
        for number in range(6):
            write_image(tmp_path / 'eurosat' / name / f'{number}.png', label, number)
    cfg = Config.fromfile(FOLDER / 'prototypes_clip-vit-base-p16_eurosat-5way.py')
    cfg.model.backbone.arch = dict(image_size=32, patch_size=8, vision_width=32, vision_layers=4, vision_heads=4,
                                   embed_dim=16)
    cfg.test_dataloader.update(num_workers=0)
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'eurosat')
    cfg.test_dataloader.dataset.pipeline[1].scale = (32, 32)
    cfg.test_evaluator = [dict(type='EpisodeAccuracy', n_shot=1, n_query=5, n_episodes=20, metric='euclidean')]
    cfg.log_level = 'ERROR'
    found = test(cfg, str(tmp_path / 'clip.pth'), work_dir=str(tmp_path / 'run'), record=False)
    assert 25 < found['episode/accuracy'] <= 100
