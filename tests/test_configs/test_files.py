"""Each file of configs/: its form, its name, and that all it names exists."""

import ast
import inspect
import re

import catalogue
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from mmpretrain.registry import DATASETS, HOOKS, METRICS, TRANSFORMS, VISUALIZERS

from mmlora.apis import settle_variables
from mmlora.datasets import VTAB_SETS, find_vtab_set

ARCHS = ('vit-base-p16', 'vit-large-p16', 'swin-base-w12')
SETS = [*(f'vtab1k-{name.replace("_", "-")}' for name in VTAB_SETS), 'medfmc-chest', 'medfmc-colon', 'medfmc-endo']
LEAVES = [name for name in catalogue.sr_lora() if 'published-code' not in name]
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def datasets(cfg):
    """The data sets of a config, by loader."""
    return {name: cfg[name].dataset for name in LOADERS if cfg.get(name)}


def test_no_config_imports_anything():
    files = catalogue.python_files()
    assert len(files) > 100
    nodes = ((path, node) for path in files for node in ast.walk(ast.parse(path.read_text())))
    assert [path for path, node in nodes if isinstance(node, ast.Import | ast.ImportFrom)] == []


def test_bases_name_their_scope_and_no_leaf_is_long():
    models = catalogue.CONFIGS / '_base_' / 'models'
    assert [path for path in models.glob('*.py') if Config.fromfile(path).model.get('_scope_') != 'mmpretrain'] == []
    leaves = [*LEAVES, *catalogue.rlrr(), *catalogue.baselines(), *catalogue.clip()]
    lines = [len((catalogue.CONFIGS / f'{name}.py').read_text().splitlines()) for name in leaves]
    assert len(leaves) > 350 and all(3 <= count <= 10 for count in lines)


def test_the_grid_is_complete():
    wanted = {f'sr_lora/sr-lora_{arch}_in21k-pre_1xb4-coslr-20e_{data}' for arch in ARCHS for data in SETS}
    assert len(wanted) == 66 and set(LEAVES) == wanted


@pytest.mark.parametrize('name', catalogue.sr_lora(), ids=catalogue.short)
def test_a_name_says_what_the_config_holds(name):
    cfg = catalogue.load(name)
    arch, batch, epochs, data = re.search(
        r'/sr-lora_(.+)_in21k-pre_1xb(\d+)-coslr-(\d+)e_(.+?)(?:_published-code)?$', name
    ).groups()
    assert cfg.dataset_name == data
    assert cfg.method == ('SR-LoRA (published code)' if name.endswith('published-code') else 'SR-LoRA')
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (int(batch), int(epochs))
    assert cfg.model.backbone.type == ('SwinSR_LoRA' if 'swin' in arch else 'VitSR_LoRA')
    assert cfg.model.backbone.arch == arch.split('-')[1] and arch in cfg.model.backbone.init_cfg.checkpoint.replace(
        'swin_base_patch4_window12', 'swin-base-w12'
    )
    for loader in datasets(cfg).values():
        folder = 'cifar' if data == 'vtab1k-cifar' else data.split('-', 1)[1]
        if loader.type == 'VTAB1k':
            assert find_vtab_set(folder).name == loader.name and loader.data_root == 'data/vtab-1k'
        else:
            assert loader.data_root == f'data/MedFMC/{folder}'
            assert DATASETS.get(loader.type).METAINFO['dataset'] == folder


@pytest.mark.parametrize('name', catalogue.sr_lora(), ids=catalogue.short)
def test_the_head_has_the_classes_of_the_data(name):
    cfg = catalogue.load(name)
    (kind,) = {loader.type for loader in datasets(cfg).values()}
    if kind == 'VTAB1k':
        (which,) = {loader.name for loader in datasets(cfg).values()}
        classes, multi_label = find_vtab_set(which).num_classes, False
    else:
        data = DATASETS.get(kind)
        classes, multi_label = len(data.METAINFO['classes']), data.MULTI_LABEL
    assert cfg.model.head.num_classes == classes
    assert (cfg.model.head.type == 'MultiLabelLinearClsHead') == multi_label


@pytest.mark.parametrize('name', catalogue.names(), ids=catalogue.short)
def test_nothing_is_chosen_on_test_images(name):
    parts = {key: {k: v for k, v in loader.items() if k not in ('pipeline', 'test_mode')}
             for key, loader in datasets(catalogue.load(name)).items()}
    cfg = catalogue.load(name)
    if 'test_dataloader' in parts:
        assert parts['test_dataloader']['split'] == 'test'
        assert all(part['split'] != 'test' for key, part in parts.items() if key != 'test_dataloader')
    if cfg.default_hooks.checkpoint.get('save_best'):
        assert 'val_dataloader' in parts
    assert {bool(cfg.get(key)) for key in ('val_dataloader', 'val_evaluator')} in ({True}, {False})
    if name in catalogue.sr_lora():
        assert 'val_dataloader' not in parts and 'val_cfg' not in cfg


@pytest.mark.parametrize('shot, split', [(1, 1), (1, 5), (5, 2), (10, 3), (None, 1)])
def test_shot_and_split_reach_the_training_data_alone(shot, split):
    for name in catalogue.distinct(lambda cfg: cfg.train_dataloader.dataset.get('type'), LEAVES):
        cfg = catalogue.load(name)
        assert (cfg.shot, cfg.split) == (1, 1)
        cfg.merge_from_dict(dict(shot=shot, split=split))
        settle_variables(cfg)
        assert (cfg.train_dataloader.dataset.n_shot, cfg.train_dataloader.dataset.exp) == (shot, split)
        assert 'n_shot' not in cfg.test_dataloader.dataset and 'exp' not in cfg.test_dataloader.dataset


def accepted(kind):
    """Names of the arguments of a class and its bases, up to the first whose constructor takes no others."""
    found = set()
    for base in kind.__mro__:
        if '__init__' in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            found |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return found


def test_data_sets_take_their_arguments():
    for name in catalogue.distinct(lambda cfg: {k: sorted(v) for k, v in datasets(cfg).items()}):
        for loader in datasets(catalogue.load(name)).values():
            given = set(loader) - {'type'}
            assert given <= accepted(DATASETS.get(loader.type)), (name, loader.type)


@pytest.mark.parametrize('name', catalogue.distinct(lambda cfg: [
    cfg.get('custom_hooks'), cfg.default_hooks, cfg.get('test_evaluator'), cfg.get('visualizer'),
    cfg.get('custom_imports'), cfg.env_cfg
]), ids=catalogue.short)
def test_hooks_and_metrics_can_be_built(name):
    cfg = catalogue.load(name)
    assert cfg.default_scope == 'mmpretrain' and cfg.custom_imports.imports == ['mmlora']
    Visualizer.get_instance('configs')  # a hook asks for one
    for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks]:
        HOOKS.build(hook)
    for part in ('val', 'test'):
        metrics = cfg.get(f'{part}_evaluator') or []
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            METRICS.build(metric)
    assert VISUALIZERS.get(cfg.visualizer.type)


@pytest.mark.parametrize('name', catalogue.distinct(
    lambda cfg: [loader.get('pipeline') for loader in datasets(cfg).values()]), ids=catalogue.short)
def test_transforms_can_be_built(name):
    for loader in datasets(catalogue.load(name)).values():
        for step in loader.pipeline:
            TRANSFORMS.build(step)


def test_which_configs_use_spu():
    for name in LEAVES:
        types = [hook.type for hook in catalogue.load(name).custom_hooks]
        assert types == ['StepSeedHook', *([] if 'swin' in name else ['SPUHook'])]


def test_the_published_spu_is_the_same_everywhere():
    hooks = [catalogue.load(name).custom_hooks for name in catalogue.sr_lora() if 'published-code/sr-lora_vit' in name]
    assert len(hooks) == 5 and all(found == hooks[0] for found in hooks)  # test_runs.py trains with one of them
    assert [(hook.per, hook.targets) for hook in hooks[0][1:]] == [('forward', 'attn.qkv'), ('iteration', 'attn.proj')]


def test_both_published_endo_configs_fill_undefined_classes_as_published():
    names = [name for name in catalogue.sr_lora() if 'published-code/' in name and 'medfmc-endo' in name]
    for evaluator in (catalogue.load(name).test_evaluator for name in names):
        assert [metric['undefined'] for metric in evaluator] == ['zero', 'reference']
    assert len(names) == 2
