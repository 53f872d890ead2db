"""What training and testing change in a config."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from tiny import CONFIG

from mmlora.apis import prepare_test_cfg, prepare_train_cfg, train
from mmlora.apis import test as run_test
from mmlora.apis.unknown_types import explain_unknown_types, unknown_type_message


@pytest.fixture
def cfg():
    return Config.fromfile(CONFIG)


def hooks(cfg):
    return [hook['type'] for hook in cfg.custom_hooks]


def test_stock_parts_become_resumable_ones(cfg):
    before = copy.deepcopy(cfg.to_dict())
    done = prepare_train_cfg(cfg)
    assert cfg.to_dict() == before
    assert done.train_cfg == dict(type='mmlora.EpochTrainLoop', max_epochs=3, val_interval=1)
    assert done.train_dataloader.sampler.type == 'mmlora.ResumableSampler'
    assert done.train_dataloader.dataset.type == 'mmlora.SeededDataset'
    assert done.train_dataloader.dataset.dataset.type == 'CustomDataset'
    assert done.val_dataloader.sampler.type == 'DefaultSampler'
    assert done.default_hooks.checkpoint == dict(type='mmlora.CheckpointHook', interval=1)
    ours = ('StepSeedHook', 'StartTrainingHook', 'ProtocolHook', 'StrictLoadHook')
    assert hooks(done) == [f'mmlora.{name}' for name in ours]
    assert done.work_dir == 'work_dirs/tiny_vit'


def test_preparing_twice_changes_nothing_more(cfg):
    cfg.compile = dict(mode='default')
    once = prepare_train_cfg(cfg, amp=True, auto_scale_lr=True)
    twice = prepare_train_cfg(once, amp=True, auto_scale_lr=True)
    assert once.to_dict() == twice.to_dict()
    assert once.auto_scale_lr.enable is True
    assert [h for h in once.custom_hooks if h['type'] == 'mmlora.CompileHook'] == [
        dict(type='mmlora.CompileHook', mode='default')
    ]


def test_what_the_user_chose_stays(cfg):
    cfg.train_cfg = dict(type='MyLoop', max_epochs=3)
    cfg.train_dataloader.sampler = dict(type='my.EpisodeSampler')
    cfg.default_hooks.checkpoint = None
    cfg.custom_hooks = [dict(type='StrictLoadHook', fine_tune=False), dict(type='other.CheckpointHook')]
    done = prepare_train_cfg(cfg)
    assert done.train_cfg.type == 'MyLoop'
    assert done.train_dataloader.sampler.type == 'my.EpisodeSampler'
    assert done.default_hooks.checkpoint is None
    ours = ['mmlora.StepSeedHook', 'mmlora.StartTrainingHook', 'mmlora.ProtocolHook']
    assert hooks(done) == ['StrictLoadHook', 'other.CheckpointHook', *ours]
    assert done.custom_hooks[0]['fine_tune'] is False


@pytest.mark.parametrize('workers,wish,given,expected', [
    (0, True, None, False), (0, True, True, False), (2, True, None, True), (2, True, False, False),
    (2, False, True, False),
])  # yapf: disable
def test_worker_options_fit_the_number_of_workers(cfg, workers, wish, given, expected):
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.num_workers = workers
        if given is not None:
            loader.persistent_workers = given
            loader.pin_memory = given
    done = prepare_train_cfg(cfg, persistent_workers=wish)
    for part in ('train', 'val', 'test'):
        loader = done[f'{part}_dataloader']
        assert loader.persistent_workers is expected
        assert loader.pin_memory is (torch.cuda.is_available() and given is not False)
        assert loader.collate_fn == dict(type='default_collate')


def test_validation_can_be_left_out(cfg):
    done = prepare_train_cfg(cfg, validate=False)
    assert done.val_cfg is done.val_dataloader is done.val_evaluator is None
    assert done.test_dataloader is not None


def test_the_work_dir_comes_from_the_caller_then_the_config_then_the_file(cfg, tmp_path):
    assert prepare_train_cfg(cfg, work_dir=tmp_path).work_dir == str(tmp_path)
    cfg.work_dir = 'mine'
    assert prepare_train_cfg(cfg).work_dir == 'mine'
    nameless = Config({k: v for k, v in cfg.to_dict().items() if k != 'work_dir'})
    with pytest.raises(ValueError, match='say where results go'):
        prepare_train_cfg(nameless)


@pytest.mark.parametrize('change,options,message', [
    (dict(auto_scale_lr=None), dict(auto_scale_lr=True), 'base_batch_size'),
    (dict(optim_wrapper=dict(type='my.Wrapper')), dict(amp=True), 'my.Wrapper'),
    (dict(train_dataloader=None), dict(), 'training needs train_dataloader'),
])  # yapf: disable
def test_options_that_do_not_fit_are_errors(cfg, change, options, message):
    for name, value in change.items():
        cfg[name] = value
    with pytest.raises(ValueError, match=message):
        prepare_train_cfg(cfg, **options)


def test_testing_a_prepared_training_config_is_strict(cfg):
    cfg.compile = True
    done = prepare_test_cfg(prepare_train_cfg(cfg), 'some.pth', launcher='none')
    assert done.load_from == 'some.pth' and done.resume is False
    assert [h for h in done.custom_hooks if h['type'] == 'mmlora.StrictLoadHook'][0]['fine_tune'] is False


def test_test_options(cfg):
    done = prepare_test_cfg(cfg, 'some.pth', amp=True, tta=True)
    assert done.test_cfg.fp16 is True
    assert done.model.type == 'mmpretrain.AverageClsScoreTTA' and done.model.module.type == 'ImageClassifier'
    assert done.test_dataloader.dataset.pipeline[-1].type == 'TestTimeAug'
    done = prepare_test_cfg(cfg, 'some.pth', show_dir='drawn', interval=3)
    assert done.default_hooks.visualization.out_dir == 'drawn' and done.default_hooks.visualization.interval == 3


@pytest.mark.parametrize('options,message', [
    (dict(out='x.txt'), '.pkl'), (dict(out='x.txt', out_item='metrics'), '.json'),
    (dict(out='x.pkl', out_item='y'), 'one of'), (dict(show=True), 'VisualizationHook'),
])  # yapf: disable
def test_bad_test_options_are_errors(cfg, options, message):
    cfg.default_hooks.pop('visualization')
    with pytest.raises(ValueError, match=message):
        run_test(cfg, 'some.pth', **options)


UNKNOWN = {
    'model': (dict(model=dict(type='ImageClassifer')), "model 'ImageClassifer'.*'ImageClassifier'"),
    'backbone': (dict(model__backbone__type='VisionTransfomer'), "'VisionTransformer'"),
    'ours': (dict(model__backbone__type='VitSRLora'), "VitSR"),
    'dataset': (dict(train_dataloader__dataset__type='CustomDatset'), "dataset 'CustomDatset'.*'CustomDataset'"),
    'transform': (dict(train_dataloader__dataset__pipeline=[dict(type='RandomFlp')]), "'RandomFlip'"),
    'hook': (dict(custom_hooks=[dict(type='EMAHok')]), "hook 'EMAHok'.*'EMAHook'"),
    'optimizer': (dict(optim_wrapper__optimizer__type='AdmW'), "'AdamW'"),
    'metric': (dict(val_evaluator=dict(type='Acuracy')), "'Accuracy'"),
    'scheduler': (dict(param_scheduler=[dict(type='CosineAnealingLR')]), "'CosineAnnealingLR'"),
    'nothing like it': (dict(model__backbone__type='Zzzzzzz'), r'\d+ names are known'),
}


@pytest.mark.parametrize('case', UNKNOWN)
def test_an_unknown_type_is_named_with_near_misses(tmp_path, images, case):
    from tiny import tiny_config
    options, message = UNKNOWN[case]
    with pytest.raises(ValueError, match=message):
        train(tiny_config(images, tmp_path, **options))


def test_other_key_errors_pass():
    with pytest.raises(KeyError, match='colour'), explain_unknown_types():
        raise KeyError('colour')
    assert 'Resnet' in unknown_type_message('mmpretrain.Resnet', 'model')


@pytest.mark.parametrize('loop', [dict(by_epoch=True, max_epochs=1), dict(by_epoch=False, max_iters=3)])
def test_no_data_worker_outlives_a_run(tmp_path, images, loop):
    from multiprocessing import active_children

    from tiny import tiny_config
    before = set(active_children())
    options = {f'{part}_dataloader__num_workers': 1 for part in ('train', 'val', 'test')}
    train(tiny_config(images, tmp_path, train_cfg=loop, **options))
    assert set(active_children()) <= before


@pytest.mark.parametrize('length', [1, 2, 50])
def test_the_shipped_schedule_reaches_its_learning_rate_however_few_the_images(root, length):
    cfg = Config.fromfile(str(root / 'configs' / '_base_' / 'schedules' / 'adamw_cosine_20e.py'))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    build = dict(optimizer=optimizer, epoch_length=length)
    schedulers = [PARAM_SCHEDULERS.build(dict(s), default_args=build) for s in cfg.param_scheduler]
    rates = []
    for _ in range(20 * length):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert max(rates) == pytest.approx(1e-3) and rates[-1] < 0.1 * max(rates)
