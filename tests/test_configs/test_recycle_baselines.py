"""The configs of the baselines of LoRA-Recycle: which tuner on which images, and that the page lists them."""

import pytest
from catalogue import CONFIGS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmlora.apis import settle_variables
from mmlora.engine.episode_tuning import build_tuner
from mmlora.models.backbones.skeleton import Skeleton

FOLDER = CONFIGS / 'lora_recycle'
PAGE = (CONFIGS.parent / 'docs' / 'lora_recycle.md').read_text(encoding='utf-8')
TARGETS = ('vit-micro_glyphs', 'clip-vit-base-p16_cub')
TUNERS = {path.stem: path for path in sorted((CONFIGS / '_base_' / 'tuners').glob('*.py'))}
RUNS = [(name, f'{name}_{target}-5way{"_tuned" if name == "pmf" else ""}') for name in TUNERS for target in TARGETS]


def load(name):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    settle_variables(cfg)
    return cfg


@pytest.mark.parametrize('tuner, name', RUNS, ids=[name for _, name in RUNS])
def test_a_baseline_is_the_test_of_prototypes_with_a_tuner(tuner, name):
    cfg, plain = load(name), load(f'prototypes_{name.split("_", 1)[1].removesuffix("_tuned")}')
    for part in ('test_dataloader', 'test_evaluator', 'data_preprocessor'):
        assert cfg[part] == plain[part]
    assert cfg.test_cfg.pop('type') == 'EpisodeTuningLoop'
    built = build_tuner(cfg.test_cfg.tuner)
    assert type(built).__name__ in PAGE and f'`{tuner}_*' in PAGE
    if 'hub' in cfg.test_cfg.tuner:
        hub = f'hub_{name.split("_", 1)[1]}'
        assert built.hub == (f'mmlora://{hub}' if 'micro' in hub else f'work_dirs/hubs/{hub}')
        assert (FOLDER / f'{hub}.py').exists()
    for optimizer in filter(None, [getattr(built, 'optimizer', None)]):
        assert built.steps == 50 and optimizer == dict(type='SGD', lr=1e-3 if tuner == 'pmf' else 0.1)


@pytest.mark.parametrize('target', TARGETS)
def test_meta_training_on_real_images_lets_all_weights_learn(target):
    cfg = load(f'pmf_{target}-5way')
    assert cfg.test_cfg.type == 'EpisodeTestLoop' and [hook.type for hook in cfg.custom_hooks] == ['StepSeedHook']
    assert cfg.train_dataloader.dataset.dataset.split in ('train', 'meta_train')
    backbone = cfg.model.backbone.get('backbone', cfg.model.backbone)
    checkpoint = backbone.pop('init_cfg').checkpoint
    assert checkpoint == load(f'meta-lora_{target}-5way').model.backbone.backbone.init_cfg.checkpoint
    init_default_scope('mmpretrain')
    with Skeleton():
        model = MODELS.build(cfg.model)
    assert not [name for name, p in model.named_parameters() if not p.requires_grad]
