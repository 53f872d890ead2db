"""The bases of the linear probe and Tip-Adapter on CLIP: models, lengths, learning rates, and the page about them."""

import re

import pytest
import torch
from catalogue import CONFIGS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import HOOKS, MODELS

from mmlora.apis import prepare_train_cfg
from mmlora.models.backbones.skeleton import Skeleton
from mmlora.models.clip import CLIPLinearProbe, TipAdapter

BASES = CONFIGS / '_base_'
METHODS = {
    'linear-probe': (CLIPLinearProbe, 'Linear probe', 'linear-probe_adamw_cosine_100e', 100, 10 * 513),
    'tip-adapter': (TipAdapter, 'Tip-Adapter', 'tip-adapter_training-free', None, 0),
    'tip-adapter-f': (TipAdapter, 'Tip-Adapter-F', 'tip-adapter-f_adamw_cosine_20e', 20, 160 * 512),
}
WORDS = dict(type='WordTokenizer', vocabulary=['a', 'photo', 'of', '.'])


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def load(tmp_path, method, runtime='clip_feature_cache', dataset='eurosat'):
    schedule = f'schedules/{METHODS[method][2]}'
    bases = [f'models/{method}_clip-vit-base-p16', f'datasets/clip/{dataset}', schedule, runtime]
    (tmp_path / 'leaf.py').write_text(f'_base_ = {[str(BASES / f"{base}.py") for base in bases]}\n')
    return prepare_train_cfg(Config.fromfile(tmp_path / 'leaf.py'), work_dir=str(tmp_path))


@pytest.mark.parametrize('method', METHODS)
def test_bases(tmp_path, method):
    kind, name, _, epochs, learned = METHODS[method]
    cfg = load(tmp_path, method)
    assert cfg.method == name and cfg.model.init_cfg.checkpoint == 'weights/ViT-B-16.pt'
    sizes = dict(num_classes=10) if kind is CLIPLinearProbe else dict(num_classes=10, cache_size=160)
    with Skeleton():
        model = MODELS.build({**cfg.model, 'init_cfg': None, 'tokenizer': WORDS, **sizes})
    assert type(model) is kind and model.scale.number == 100.0 and not model.templates_given
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == learned
    hooks = [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks]
    assert {'ClassNamesHook', 'FeatureCacheHook', 'StartTrainingHook', 'AdapterFolderHook'} <= set(hooks)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert cfg.train_cfg.get('max_epochs') == epochs and cfg.default_hooks.checkpoint.by_epoch
    if method == 'tip-adapter-f':
        [group] = optimizer.param_groups
        assert (group['lr'], group['eps'], group['weight_decay']) == (1e-3, 1e-4, 0.01)
    if epochs:
        assert [part.T_max for part in cfg.param_scheduler] == [epochs]
    else:
        assert cfg.train_cfg.type == 'TrainingFreeLoop'
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_the_page_names_what_there_is(root, tmp_path):
    text = (root / 'docs' / 'clip_methods.md').read_text(encoding='utf-8')
    part = text[text.index('## Baselines') :]
    for method, (_, _, schedule, _, _) in METHODS.items():
        assert f'`{method}_clip-vit-base-p16.py` | `{schedule}.py` | `clip_feature_cache.py`' in part
    for path in re.findall(r"'(_base_/[\w/.-]+\.py)'", part):
        assert (CONFIGS / path).is_file()
