"""The methods that CLIP-LoRA is compared with: the grid of files, the settings of each, and how long they train."""

import catalogue
import pytest
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmlora.apis import prepare_train_cfg, settle_variables
from mmlora.datasets import COOP_SETS, IMAGENET_SHIFTS
from mmlora.models.backbones.skeleton import Skeleton

BY_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}
SGD = dict(type='SGD', lr=0.002, momentum=0.9, weight_decay=5e-4)
ADAMW = dict(type='AdamW', lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
METHODS = {
    # first word: (name, middle of the name, optimizer, length by shots, learned numbers)
    'coop': ('CoOp', '_1xb32-cosine-by-shot', SGD, BY_EPOCHS, 16 * 512),
    'clip-adapter': ('CLIP-Adapter', '_1xb32-cosine-by-shot', SGD, BY_EPOCHS, 2 * 512 * 128),
    'layer-norm': ('LayerNorm', '_1xb32-cosine-300i-per-shot', ADAMW, {1: 300, 4: 1200, 16: 4800},
                   2 * (26 * 768 + 25 * 512)),
    'two-stage': ('2SFS', '_1xb32-cosine-300i-per-shot', ADAMW, {1: 300, 4: 1200, 16: 4800}, None),
    'linear-probe': ('Linear probe', '_1xb32-cosine-100e', dict(type='AdamW', lr=1e-3, weight_decay=0.01),
                     {1: 100, 16: 100}, None),
    'tip-adapter': ('Tip-Adapter', '_training-free', None, None, None),
    'tip-adapter-f': ('Tip-Adapter-F', '_1xb256-cosine-20e',
                      dict(type='AdamW', lr=1e-3, weight_decay=0.01, eps=1e-4), {1: 20, 16: 20}, None),
    'zero-shot': ('zero-shot', '', None, None, 0),
}  # fmt: skip
OTHER_LENGTHS = {('coop', 'imagenet'): 50, ('tip-adapter-f', 'eurosat'): 100}
LEAVES = {(method, data): f'clip_lora/{method}_vit-base-p16{middle}_{data.replace("_", "-")}'
          for method, (_, middle, *_) in METHODS.items()
          for data in (*COOP_SETS, *(IMAGENET_SHIFTS if method == 'zero-shot' else ()))}
LEAVES['tip-adapter-f', 'eurosat'] = LEAVES['tip-adapter-f', 'eurosat'].replace('20e', '100e')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def test_the_grid_is_complete():
    others = [name for name in catalogue.clip() if not name.startswith('clip_lora/clip-lora_')]
    assert sorted(others) == sorted(LEAVES.values())


def test_a_name_says_what_the_config_holds():
    for (method, data), name in LEAVES.items():
        cfg = catalogue.load(name)
        settle_variables(cfg)
        assert (cfg.method, cfg.dataset_name, cfg.model.arch) == (METHODS[method][0], data, 'ViT-B/16')
        assert cfg.model.init_cfg == dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt')
        assert cfg.run_folder.startswith(f'{method}/vit-base-p16/{{dataset_name}}')
        test = cfg.test_dataloader.dataset
        assert (test.name, test.split, test.get('templates', 'set')) == (data, 'test', 'set')
        if method == 'zero-shot':
            assert cfg.train_dataloader is None and cfg.shot == 0 and 'templates' not in cfg.model
        else:
            train = cfg.train_dataloader
            assert (train.dataset.name, train.dataset.sampling) == (data, 'clip_lora')
            assert train.batch_size == (256 if method == 'tip-adapter-f' else 32)


@pytest.mark.parametrize('method', [method for method, row in METHODS.items() if row[2]])
@pytest.mark.parametrize('data', ['imagenet', 'dtd', 'eurosat'])
def test_optimizer_and_length(method, data):
    _, _, optimizer, lengths, _ = METHODS[method]
    for shot, length in lengths.items():
        cfg = catalogue.load(LEAVES[method, data])
        cfg.shot = shot
        cfg = prepare_train_cfg(cfg)
        length = OTHER_LENGTHS.get((method, data), length)
        assert cfg.optim_wrapper.optimizer == optimizer
        assert cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters')) == length
        by_epoch = method in ('coop', 'clip-adapter', 'linear-probe', 'tip-adapter-f')
        assert cfg.default_hooks.checkpoint.by_epoch == cfg.log_processor.by_epoch == by_epoch
        assert length % cfg.default_hooks.checkpoint.interval == 0 or not by_epoch
        assert cfg.work_dir == f'work_dirs/{method}/vit-base-p16/{data}/{shot}shots/seed1'
        assert max(part.get('end', 0) for part in cfg.param_scheduler) == length


@pytest.mark.parametrize('method', [method for method, row in METHODS.items() if row[4] is not None])
def test_what_learns_at_full_size(method):
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = catalogue.load(LEAVES[method, 'eurosat'])
    cfg.model.tokenizer = dict(type='WordTokenizer', vocabulary=['a'])
    cfg.model.pop('init_cfg')
    with Skeleton():
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == METHODS[method][4]
