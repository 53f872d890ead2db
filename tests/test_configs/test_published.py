"""configs/rlrr and configs/baselines: the grid of files, and the published setting of each."""

import json
import math
import re

import catalogue
import pytest
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmlora.apis import settle_variables
from mmlora.datasets import VTAB_SETS, find_vtab_set
from mmlora.models.backbones.skeleton import Skeleton

ARCHS = ('vit-base-p16', 'vit-base-p32', 'vit-large-p16', 'vit-large-p32', 'vit-huge-p14', 'swin-base-w7')
METHODS = {  # Names of files and of results.
    'linear': 'Linear probe', 'full': 'Full fine-tuning', 'bitfit': 'BitFit', 'vpt-deep': 'VPT-deep',
    'lora-r8': 'LoRA r=8', 'adaptformer': 'AdaptFormer', 'ssf': 'SSF', 'rlrr': 'RLRR',
}  # fmt: skip
VTAB = tuple(f'vtab1k-{name.replace("_", "-")}' for name in VTAB_SETS)
FGVC = tuple(f'fgvc-{name}' for name in ('cub', 'nabirds', 'flowers', 'dogs', 'cars'))
GOOGLE = 'https://storage.googleapis.com/vit_models/'
WEIGHTS = {
    'vit-base-p16': GOOGLE + 'imagenet21k/ViT-B_16.npz', 'vit-base-p32': GOOGLE + 'imagenet21k/ViT-B_32.npz',
    'vit-large-p16': GOOGLE + 'imagenet21k/ViT-L_16.npz', 'vit-large-p32': GOOGLE + 'imagenet21k/ViT-L_32.npz',
    'vit-huge-p14': GOOGLE + 'imagenet21k/ViT-H_14.npz',
    'augreg': GOOGLE + 'augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz',
    'swin-base-w7': 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
    'swin_base_patch4_window7_224_22k.pth',
}  # fmt: skip
COUNTS = {
    # method and backbone: (learned in the backbone, frozen there)
    'rlrr vit-base-p16': (288_768, 85_798_656), 'rlrr vit-base-p32': (288_768, 87_455_232),
    'rlrr vit-large-p16': (765_952, 303_301_632), 'rlrr vit-large-p32': (765_952, 305_510_400),
    'rlrr vit-huge-p14': (1_274_880, 630_764_800), 'rlrr swin-base-w7': (358_144, 86_743_224),
    'linear vit-base-p16': (0, 85_798_656), 'full vit-base-p16': (85_798_656, 0),
    'bitfit vit-base-p16': (102_912, 85_695_744), 'vpt-deep vit-base-p16': (12 * 50 * 768, 85_798_656),
    'lora-r8 vit-base-p16': (12 * 8 * (768 + 3 * 768), 85_798_656),
    'adaptformer vit-base-p16': (12 * (2 * 8 * 768 + 8 + 768), 85_798_656),
    'ssf vit-base-p16': (205_824, 85_798_656),
}  # fmt: skip
NAME = re.compile(
    r'(?:rlrr|baselines)/(?P<method>[\w-]+?)_(?P<arch>[\w-]+)_(?P<augreg>augreg-)?in21k-pre_1xb(?P<batch>\d+)-'
    r'(?P<schedule>latecos|laterestart|coslr)-(?P<epochs>\d+)e_(?P<data>[\w-]+?)(?P<mixup>_mixup)?'
)
LEAVES = [*catalogue.rlrr(), *catalogue.baselines()]
ALL_SETS = (*VTAB, *FGVC)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='module')
def published(golden):
    return json.loads((golden / 'rlrr' / 'published.json').read_text())


def parts(name):
    """What the name of a config says."""
    return NAME.fullmatch(name).groupdict()


def setting(published, data):
    """The published settings of a data set, by method."""
    kind, name = data.split('-', 1)
    return published['vtab' if kind == 'vtab1k' else kind][find_vtab_set(name).name if kind == 'vtab1k' else name]


def test_the_grid_is_complete():
    found = [tuple(parts(name)[key] for key in ('method', 'arch', 'data', 'mixup')) for name in LEAVES]
    wanted = {('rlrr', arch, data, None) for arch in ARCHS for data in ALL_SETS}
    wanted |= {('rlrr', 'vit-base-p16', data, '_mixup') for data in FGVC}
    wanted |= {(method, 'vit-base-p16', data, None) for method in METHODS if method != 'rlrr' for data in ALL_SETS}
    assert len(found) == len(set(found)) == 6 * 24 + 5 + 7 * 24 and set(found) == wanted


@pytest.mark.parametrize('data', ALL_SETS)
def test_a_name_says_what_the_config_holds(published, data):
    for name in LEAVES:
        says, cfg = parts(name), catalogue.load(name)
        if says['data'] != data:
            continue
        assert (cfg.dataset_name, cfg.method) == (data, METHODS[says['method']]), name
        assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (int(says['batch']), int(says['epochs']))
        backbone = catalogue.bare(cfg)
        assert backbone.init_cfg == dict(
            type='Pretrained', checkpoint=WEIGHTS['augreg' if says['augreg'] else says['arch']])
        kind, arch, patch = says['arch'].split('-')
        assert (backbone.arch, backbone.img_size) == (arch, 224) and kind in backbone.type.lower().replace(
            'visiontransformer', 'vit')
        assert backbone.get('patch_size', 'w7') in (patch, int(patch[1:]))
        assert cfg.model.head.num_classes == setting(published, data)['classes']
        first = cfg.param_scheduler[0].type
        assert first == dict(latecos='LateWarmupCosineLR', laterestart='LateCosineRestartLR', coslr='LinearLR')[
            says['schedule']]


@pytest.mark.parametrize('data', ALL_SETS)
@pytest.mark.parametrize('method', ['rlrr', 'ssf'])
def test_the_settings_of_each_set_are_the_published_ones(published, method, data):
    wanted = setting(published, data)[method]
    names = [name for name in LEAVES if parts(name)['method'] == method and parts(name)['data'] == data]
    assert len(names) == (1 if method == 'ssf' else 6 + data.startswith('fgvc'))
    for name in names:
        cfg = catalogue.load(name)
        found = cfg.optim_wrapper.optimizer
        assert found.type == 'AdamW' and (found.lr, found.weight_decay) == (wanted['lr'], wanted['weight_decay'])
        assert catalogue.bare(cfg).drop_path_rate == wanted['drop_path_rate']
        flips = 'RandomFlip' in [step.type for step in cfg.train_dataloader.dataset.pipeline]
        assert flips == (data.startswith('fgvc') or wanted.get('flip', False))
        mixup = name.endswith('_mixup')
        assert cfg.train_dataloader.get('drop_last', False) == (mixup and wanted['drop_last_mixup'])
        averages = [1 - hook.momentum for hook in cfg.custom_hooks if hook.type == 'EMAHook']
        decay = wanted.get('ema_decay', 0.9998 if mixup else None)
        assert averages == ([] if decay is None else [pytest.approx(decay, abs=1e-12)])
        if mixup:
            assert cfg.data_preprocessor.num_classes == cfg.model.head.num_classes
            assert cfg.model.train_cfg.augments.type == 'MixupCutMix' and cfg.model.head.loss.use_soft


@pytest.mark.parametrize('method, optimizer, lr, decay', [
    ('lora-r8', 'AdamW', 1e-3, 1e-4), ('adaptformer', 'AdamW', 1e-3, 1e-4), ('bitfit', 'AdamW', 1e-3, 1e-4),
    ('linear', 'SGD', 0.25, 1e-4), ('vpt-deep', 'SGD', 0.25, 1e-4), ('full', 'AdamW', 1.25e-4, 1e-2),
])  # fmt: skip
def test_the_other_methods_have_one_setting(method, optimizer, lr, decay):
    for name in catalogue.baselines():
        if parts(name)['method'] == method:
            found = catalogue.load(name).optim_wrapper.optimizer
            assert (found.type, found.lr, found.weight_decay) == (optimizer, lr, decay), name


@pytest.mark.parametrize('data', ALL_SETS)
def test_two_ways_to_prepare_images(data):
    half = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
    imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
    for name in LEAVES:
        says, cfg = parts(name), catalogue.load(name)
        if says['data'] != data:
            continue
        found = {key: cfg.data_preprocessor[key] for key in half}
        assert found == (half if says['method'] in ('rlrr', 'ssf') else imagenet), name
        first, *others = cfg.test_dataloader.dataset.pipeline[1:-1]
        if data.startswith('vtab'):
            assert not others and first == dict(
                type='Resize', scale=(224, 224), backend='pillow', interpolation='bicubic')
        assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
        assert cfg.test_dataloader.batch_size == cfg.val_dataloader.batch_size == 256


@pytest.mark.parametrize('data, splits, tuned', [
    ('vtab1k', ('train800val200', None), ('train800', 'val200')), ('fgvc', ('trainval', None), ('train', 'val')),
])
def test_all_images_are_trained_on_unless_hyper_parameters_are_tuned(data, splits, tuned):
    names = catalogue.distinct(lambda cfg: [cfg[loader].dataset for loader in catalogue.LOADERS],
                               [name for name in LEAVES if parts(name)['data'].startswith(data)])
    assert len(names) >= (5 if data == 'fgvc' else 19)
    for name in names:
        for tune, (train, val) in ((False, splits), (True, tuned)):
            cfg = catalogue.load(name)
            cfg.merge_from_dict(dict(tune=tune))
            assert settle_variables(cfg) == dict(tune=tune)
            assert (cfg.train_dataloader.dataset.split, cfg.test_dataloader.dataset.split) == (train, 'test')
            assert (cfg.val_dataloader and cfg.val_dataloader.dataset.split) == val
            assert (cfg.val_cfg is None) == (cfg.val_evaluator is None) == (val is None)


def whole(name):
    """The model of a config at full size without memory, and the weight decay of what learns."""
    MMLogger.get_current_instance().setLevel('ERROR')  # mmengine names each of the hundreds of parameters.
    cfg = catalogue.without_weights(catalogue.load(name))
    with Skeleton():
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group['params']}
    learned = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert {groups[id(p)]['lr'] for p in learned.values()} == {cfg.optim_wrapper.optimizer.lr}
    return cfg, model, {key: groups[id(p)]['weight_decay'] for key, p in learned.items()}


MODEL_NAMES = catalogue.distinct(catalogue.model_key, LEAVES)


@pytest.mark.parametrize('name', MODEL_NAMES, ids=catalogue.short)
def test_what_learns_and_what_decays(name):
    cfg, model, decays = whole(name)
    says = parts(name)
    learned, frozen = COUNTS[f'{says["method"]} {says["arch"]}']
    found = {True: 0, False: 0}
    for p in model.backbone.parameters():
        found[p.requires_grad] += p.numel()
    assert (found[True], found[False]) == (learned, frozen)
    assert {'head.fc.weight', 'head.fc.bias'} <= set(decays)
    decay = cfg.optim_wrapper.optimizer.weight_decay
    assert decay > 0 and decays.pop('head.fc.weight') == decay
    if says['method'] in ('linear', 'vpt-deep'):
        assert set(decays.values()) == {decay}  # As VPT's code does.
        return
    assert decays.pop('head.fc.bias') == 0
    dims = {key: p.dim() for key, p in model.named_parameters()}
    for key, value in decays.items():
        if says['method'] == 'rlrr':
            scales = '.rlrr_in' in key or '.rlrr_out' in key or 'patch_embed.projection.ssf' in key
            assert value == (decay if scales else 0), key
            assert scales or '.rlrr_bias' in key or re.search(r'(ln|norm)\d\.ssf_', key), key
        else:
            no_matrix = dims[key] == 1 or key.endswith('_bias')
            assert value == (0 if no_matrix or says['method'] == 'ssf' else decay), key


def test_every_model_is_counted():
    said = {f'{parts(name)["method"]} {parts(name)["arch"]}' for name in MODEL_NAMES}
    assert said == set(COUNTS) and len(MODEL_NAMES) == len(COUNTS) + 1  # Mixup is a model of its own.


def test_the_heads_start_as_published():
    for name in MODEL_NAMES:
        says = parts(name)
        init = catalogue.load(name).model.head.get('init_cfg')
        if says['method'] == 'rlrr' and says['arch'] == 'swin-base-w7':
            assert init == dict(type='TruncNormal', layer='Linear', std=0.02, bias=0)
        elif says['method'] == 'rlrr':
            assert init == dict(type='Constant', layer='Linear', val=0, bias=0)


def test_published_means_are_the_means_of_their_rows(published):
    sets = list(VTAB_SETS.values())
    rows = [row for by_method in published['results'].values() for row in by_method.values()]
    assert len(rows) == 12
    for row in rows:
        values = [row[vtab_set.name] for vtab_set in sets]
        groups = [[row[s.name] for s in sets if s.group == group] for group in
                  ('Natural', 'Specialized', 'Structured')]
        means = [math.fsum(group) / len(group) for group in groups]
        printed = [row['means'][key] for key in ('natural', 'specialized', 'structured', 'mean19')]
        # The rows are rounded, too, so that a mean may be off by one in its last digit.
        assert printed == pytest.approx([*means, math.fsum(values) / 19], abs=0.0601)
        assert row['group_mean'] == pytest.approx(math.fsum(means) / 3, abs=0.00501)
