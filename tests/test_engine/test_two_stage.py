"""2SFS by the runner: the switch, what learns before and after it, resuming in either stage, and base to new."""

import pytest
import tiny
import torch
from coop_layouts import make_listed
from mmengine.config import Config

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.apis.records import read_records
from mmlora.engine import TwoStageHook
from mmlora.engine.hooks.two_stage_hook import first_iterations
from mmlora.io.plain import from_plain

CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'
LORA = ('params', 'lora_rank', 'lora_dropout', 'vision')
TOTAL, SWITCH = 15, 9
ROWS = 'head.rows.weight'


def config(images, folder, model=(), **options):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({**tiny.data_options(images), **options})
    for name in LORA:
        cfg.model.pop(name)
    cfg.model.update(type='TwoStageCLIP', **dict(model))
    cfg.custom_hooks = [dict(type='StepSeedHook'), dict(type='ClassNamesHook'), dict(type='TwoStageHook')]
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    cfg.work_dir = str(folder)
    return cfg


def state(folder, iteration):
    return tiny.load(folder / f'iter_{iteration}.pth')['state_dict']


def changed(folder, first, last):
    before, after = state(folder, first), state(folder, last)
    return {key for key, value in after.items() if not torch.equal(value, before[key])}


@pytest.fixture(scope='module')
def whole(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp('whole')
    with tiny.quick_runs():
        runner = train(config(images, folder))
    return folder, runner


def test_each_stage_changes_its_parameters_alone(whole):
    folder, runner = whole
    norms = {key for key in state(folder, 1) if '.ln' in key or 'norm' in key}
    assert len(norms) == 2 * (2 * 3 + 2 + 2 * 2 + 1) and runner.cfg.model.num_classes == 3
    assert changed(folder, 1, SWITCH) == norms
    assert changed(folder, SWITCH, SWITCH + 1) == {ROWS, 'head.rows.known.keys', 'head.rows.stage'}
    assert changed(folder, SWITCH + 1, TOTAL) == {ROWS}
    assert not state(folder, SWITCH)[ROWS].any()
    groups = tiny.load(folder / f'iter_{TOTAL}.pth')['optimizer']['param_groups']
    assert sum(len(group['params']) for group in groups) == len(list(runner.model.parameters()))


def test_both_stages_lower_the_loss(whole):
    folder, _ = whole
    losses = from_plain(tiny.load(folder / f'iter_{TOTAL}.pth')['message_hub'])['log_scalars']['train/loss'].data[0]
    assert losses[SWITCH - 3 : SWITCH].mean() < 0.8 * losses[:3].mean()
    assert losses[TOTAL - 3 :].mean() < losses[SWITCH : SWITCH + 3].mean()


@pytest.mark.parametrize('iteration', [4, SWITCH, SWITCH + 1])
def test_a_resumed_run_ends_like_one_that_was_never_stopped(tmp_path, images, whole, iteration):
    folder, _ = whole
    train(config(images, tmp_path), resume=str(folder / f'iter_{iteration}.pth'))
    assert tiny.differing_runs(tmp_path / f'iter_{TOTAL}.pth', folder / f'iter_{TOTAL}.pth') == []


@pytest.mark.parametrize('tune', ['lora', 'bitfit'])
def test_other_ways_to_tune(tmp_path, images, tune):
    model = dict(tune=tune, **(dict(lora_dropout=0.5) if tune == 'lora' else {}))
    train(config(images, tmp_path / 'run', model))
    tuned = changed(tmp_path / 'run', 1, SWITCH)
    assert tuned and all(('lora_' if tune == 'lora' else 'bias') in key for key in tuned)
    assert changed(tmp_path / 'run', SWITCH + 1, TOTAL) == {ROWS}
    if tune == 'bitfit':
        return
    train(config(images, tmp_path / 'other', model), resume=str(tmp_path / 'run' / f'iter_{SWITCH + 1}.pth'))
    last = f'iter_{TOTAL}.pth'
    assert tiny.differing_runs(tmp_path / 'other' / last, tmp_path / 'run' / last) == []


@pytest.mark.parametrize('iteration', [SWITCH, TOTAL])
def test_testing_says_what_validation_said(tmp_path, images, whole, iteration):
    folder, runner = whole
    scores = run_test(config(images, tmp_path), str(folder / f'iter_{iteration}.pth'), record=False)
    if iteration == TOTAL:
        assert scores['accuracy/top1'] == runner.message_hub.get_scalar('val/accuracy/top1').current()
    assert scores['accuracy/top1'] > 50


def test_a_new_run_starts_from_weights_of_another_in_the_first_stage(tmp_path, images, whole):
    folder, _ = whole
    cfg = config(images, tmp_path, load_from=str(folder / f'iter_{TOTAL}.pth'))
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    assert not int(state(tmp_path, 1)['head.rows.known.keys'].any()) and int(state(tmp_path, 1)['head.rows.stage']) == 1
    assert int(state(tmp_path, 5)['head.rows.stage']) == 2


@pytest.mark.parametrize('epochs, iteration', [(2, 8), (5, 11)])
def test_another_length_cannot_be_resumed(tmp_path, images, whole, epochs, iteration):
    folder, _ = whole
    cfg = config(images, tmp_path)
    cfg.train_cfg.max_epochs = epochs
    with pytest.raises(ValueError, match=rf'resumed at iteration {iteration} in stage \d'):
        train(cfg, resume=str(folder / f'iter_{iteration}.pth'))


def test_what_cannot_be_trained(tmp_path, images):
    cfg = config(images, tmp_path)
    cfg.custom_hooks.append(dict(type='EMAHook'))
    with pytest.raises(ValueError, match='leave EMAHook out'):
        train(cfg)
    with pytest.raises(ValueError, match='rows for 2 classes, and there are 3 names: build it with num_classes=3'):
        train(config(images, tmp_path, dict(num_classes=2)))
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(tiny.data_options(images))
    cfg.work_dir = str(tmp_path)
    cfg.custom_hooks.append(dict(type='TwoStageHook'))
    with pytest.raises(TypeError, match='the model is a LoRACLIPClassifier'):
        train(cfg)


@pytest.mark.parametrize('total, fraction, first', [(4800, 0.6, 2880), (300, 0.6, 180), (15, 0.6, 9), (5, 0.5, 2)])
def test_iterations_of_the_first_stage(total, fraction, first):
    assert first_iterations(total, fraction) == first


def test_wrong_fractions():
    for fraction in (0, 1, 1.5, True, '0.6'):
        with pytest.raises(ValueError, match='between 0 and 1'):
            TwoStageHook(fraction)
    with pytest.raises(ValueError, match='leaves 0 for the first stage'):
        first_iterations(1, 0.6)


def test_base_to_new(tmp_path):
    """Rows of the classifier answer for the base classes, the tuned text tower for the new ones."""
    make_listed(tmp_path / 'data' / 'eurosat', 'eurosat', counts=dict(train=2, val=2, test=2), real=True)
    cfg = config(tmp_path, tmp_path / 'run')
    vocabulary = ['a', 'centered', 'satellite', 'photo', 'of', '.', 'the', 'class', *map(str, range(10))]
    cfg.model.update(tokenizer=dict(type='WordTokenizer', vocabulary=vocabulary))
    cfg.model.arch.update(vocab_size=len(vocabulary) + 3, context_length=12)
    data = dict(type='CoOpDataset', name='eurosat', data_root=str(tmp_path / 'data'), serialize_data=False)
    pipelines = {part: dict(pipeline=cfg[f'{part}_dataloader'].dataset.pipeline) for part in ('train', 'test')}
    cfg.base_to_new, cfg.shot, cfg.dataset_name = True, 2, 'eurosat'
    cfg.test_subset = dict(base_to_new='new', otherwise='all')
    cfg.train_dataloader.dataset = dict(data, n_shot='{shot}', seed='{seed}', subset='base', **pipelines['train'])
    cfg.test_dataloader.dataset = dict(data, split='test', subset='{test_subset}', **pipelines['test'])
    runner = train(cfg, validate=False)
    last = str(tmp_path / 'run' / f'iter_{runner.max_iters}.pth')
    assert runner.cfg.model.num_classes == 5 and runner.model.stage == 2
    for subset, images_tested in (('new', 10), ('base', 10), ('all', 20)):
        cfg.test_subset = subset
        run_test(cfg, last)
        record = next(r for r in read_records(tmp_path / 'run' / 'results.json')
                      if r['test']['config']['subset'] == subset)
        assert record['test']['images'] == images_tested and record['trained_on'] == 'eurosat-base'

    model, base = runner.model.eval(), runner.model.classes
    assert base == tuple(f'the class {i}' for i in range(5))
    with torch.no_grad():
        rows = torch.nn.functional.normalize(model.head.rows.weight, dim=-1)
        torch.testing.assert_close(model.class_features(), rows, rtol=0, atol=0)
        model.set_classes(['the_class 7', 'the class 3'])
        mixed, texts = model.class_features(), model._class_features()
        torch.testing.assert_close(mixed, torch.stack([texts[0], rows[3]]), rtol=0, atol=0)
        assert (texts[1] - rows[3]).abs().max() > 1e-3
