"""The bases of the ways to adapt CLIP beside LoRA: models, lengths, learning rates and decay, on every data set."""

import itertools
import math
import re

import pytest
import torch
from catalogue import CONFIGS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import HOOKS, MODELS

from mmlora.apis import settle_variables
from mmlora.datasets import COOP_SETS
from mmlora.engine import TwoStageHook
from mmlora.engine.hooks.two_stage_hook import first_iterations
from mmlora.models.backbones.skeleton import Skeleton
from mmlora.models.clip import CLIPAdapter, CoOpCLIP, LayerNormCLIP, TwoStageCLIP

BASES = CONFIGS / '_base_'
METHODS = {
    'coop': (CoOpCLIP, 'CoOp', 'coop_sgd_cosine', 'clip_runtime'),
    'clip-adapter': (CLIPAdapter, 'CLIP-Adapter', 'coop_sgd_cosine', 'clip_runtime'),
    'layer-norm': (LayerNormCLIP, 'LayerNorm', 'layer-norm_adamw_cosine_300i-per-shot', 'clip_runtime'),
    'two-stage': (TwoStageCLIP, '2SFS', 'two-stage_adamw_cosine_300i-per-shot', 'clip_two-stage_runtime'),
}
WORDS = dict(type='WordTokenizer', vocabulary=['a', 'photo', 'of', '.'])
methods = pytest.mark.parametrize('method', METHODS)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def load(tmp_path, method, dataset='eurosat', **options):
    _, _, schedule, runtime = METHODS[method]
    bases = [f'models/{method}_clip-vit-base-p16', f'datasets/clip/{dataset}', f'schedules/{schedule}', runtime]
    (tmp_path / 'leaf.py').write_text(f'_base_ = {[str(BASES / f"{base}.py") for base in bases]}\n')
    cfg = Config.fromfile(tmp_path / 'leaf.py')
    cfg.merge_from_dict(options)
    settle_variables(cfg)
    return cfg


def build(cfg, **more):
    with Skeleton():
        return MODELS.build({**cfg.model, 'init_cfg': None, 'tokenizer': WORDS, **more})


def rates(cfg, steps):
    """Return the learning rate of each step, where a step is what the schedulers count."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer)) for scheduler in cfg.param_scheduler]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


def cosine(step, steps, base, least=0.0):
    return least + (base - least) * (1 + math.cos(math.pi * step / steps)) / 2


@methods
def test_the_model(tmp_path, method):
    cfg = load(tmp_path, method)
    model = build(cfg)
    assert type(model) is METHODS[method][0] and cfg.method == METHODS[method][1]
    assert model.scale.number is None and cfg.model.init_cfg.checkpoint == 'weights/ViT-B-16.pt'
    # CoOp learns the prompt; CLIP-Adapter takes that of the data set.
    given = {'coop': ('[16 learned] {}.',)}.get(method, ('a photo of a {}.',))
    assert model.templates == given and model.templates_given is (method != 'clip-adapter')


@pytest.mark.parametrize('method, dataset', zip(itertools.cycle(METHODS), [*COOP_SETS, 'class_folders']))
def test_every_data_set(tmp_path, method, dataset):
    cfg = load(tmp_path, method, dataset, shot=4)
    assert cfg.train_dataloader.batch_size == 32 and cfg.train_dataloader.dataset.n_shot == 4
    assert [hook.type for hook in cfg.custom_hooks[:2]] == ['StepSeedHook', 'ClassNamesHook']


@methods
@pytest.mark.parametrize('shot', [1, 4, 16])
def test_how_long(tmp_path, method, shot):
    cfg = load(tmp_path, method, shot=shot)
    if 'sgd' in METHODS[method][2]:
        assert cfg.train_cfg.to_dict() == dict(by_epoch=True, max_epochs=cfg.train_cfg.val_interval,
                                               val_interval={1: 50, 4: 100, 16: 200}[shot])
    else:
        assert cfg.train_cfg.to_dict() == dict(by_epoch=False, max_iters=300 * shot, val_interval=300 * shot)


@pytest.mark.parametrize('method', ['coop', 'clip-adapter'])
def test_rates_of_coop(tmp_path, method):
    cfg = load(tmp_path, method, shot=1)
    wanted = [1e-5] + [cosine(epoch, 50, 2e-3) for epoch in range(49)]
    assert rates(cfg, 50) == pytest.approx(wanted, rel=1e-9)
    assert all(scheduler.by_epoch for scheduler in cfg.param_scheduler)
    assert load(tmp_path, method, 'imagenet', max_epochs=50).train_cfg.max_epochs == 50


def test_rates_of_both_stages(tmp_path):
    cfg = load(tmp_path, 'two-stage', shot=2)
    wanted = [cosine(i, 360, 2e-4, 1e-6) for i in range(360)] + [cosine(i, 240, 2e-4, 1e-6) for i in range(240)]
    assert rates(cfg, 600) == pytest.approx(wanted, rel=1e-9)
    hook = HOOKS.build(cfg.custom_hooks[2])
    assert isinstance(hook, TwoStageHook) and first_iterations(cfg.train_cfg.max_iters, hook.fraction) == 360
    assert cfg.find_unused_parameters


def test_rates_of_normalisations(tmp_path):
    cfg = load(tmp_path, 'layer-norm', shot=1)
    assert rates(cfg, 300) == pytest.approx([cosine(i, 300, 2e-4, 1e-6) for i in range(300)], rel=1e-9)


@methods
def test_what_decays(tmp_path, method):
    cfg = load(tmp_path, method)
    model = build(cfg, **(dict(num_classes=10) if method == 'two-stage' else {}))
    [group] = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert {id(p) for p in model.parameters()} == {id(p) for p in group['params']}
    assert group['weight_decay'] == (5e-4 if 'sgd' in METHODS[method][2] else 1e-2)


def test_the_page(root, tmp_path):
    """The config of docs/clip_methods.md loads, its parts build, and its tables name what exists."""
    text = (root / 'docs' / 'clip_methods.md').read_text(encoding='utf-8')
    whole, *parts = re.findall(r'^```python\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    (tmp_path / 'page.py').write_text(whole.replace("'_base_/", f"'{BASES}/"))
    cfg = Config.fromfile(tmp_path / 'page.py')
    settle_variables(cfg)
    assert type(build(cfg)) is CoOpCLIP and len(parts) == 3
    for part in parts:
        cfg = Config.fromstring(part, '.py')
        build(cfg, arch='ViT-B/16')
    assert [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks][-1] == 'TwoStageHook'
    for method, (_, _, schedule, runtime) in METHODS.items():
        row = next(line for line in text.splitlines() if f'`{method}_clip-vit-base-p16.py`' in line)
        assert f'`{schedule}.py` | `{runtime}.py`' in row
    assert f'{2 * 768 * 26:,}' in text and f'{2 * 512 * 25:,}' in text
