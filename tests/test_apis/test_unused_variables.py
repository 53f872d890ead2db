"""A variable that nothing refers to has no effect, and must not pass unseen."""

import logging

import pytest
from mmengine.config import Config
from test_variables import few_shot
from tiny import ROOT, call_tool

from mmlora.apis import prepare_test_cfg, prepare_train_cfg
from mmlora.apis import unused_variables as module
from mmlora.apis.unused_variables import refuse_idle_options, warn_of_mistyped_variables
from mmlora.apis.variables import referred_variables, settle_variables

MICRO = ROOT / 'configs' / 'clip_micro' / 'clip-adapter_clip-micro_unseen-scripts.py'


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, logger, level: said.append((text, level)))
    return said


@pytest.mark.parametrize('name, value', [('max_epochs', 3), ('val_split', 'val'), ('split', 2)])
@pytest.mark.parametrize('tool, args', [('train', []), ('test', ['no.pth'])])
def test_the_tools_refuse_an_option_without_effect(tool, args, name, value):
    with pytest.raises(ValueError, match=rf'{MICRO.name}: nothing in the config refers to {name}, so that setting it'):
        call_tool(tool, MICRO, *args, '--cfg-options', 'shot=2', f'{name}={value}')


def test_what_data_schedule_and_rules_refer_to_may_be_set():
    cfg = few_shot(max_iters=dict(per_shot=5), train_split=dict(tune='train', otherwise='trainval'), tune=True)
    cfg.train_cfg = dict(by_epoch=False, max_iters='{max_iters}')
    cfg.train_dataloader.dataset.n_shot = cfg.val_dataloader.dataset.n_shot = None
    cfg.train_dataloader.dataset.data_prefix = ['a', dict(folder='{train_split}')]
    assert referred_variables(cfg) == {'max_iters', 'train_split', 'split', 'shot', 'tune'}
    refuse_idle_options(cfg, dict(shot=1, split=1, max_iters=1, rank_batches=4))
    refuse_idle_options(cfg, None)
    cfg.max_iters = 10  # No longer by shot, which nothing else refers to.
    with pytest.raises(ValueError, match='refers to shot, so'):
        refuse_idle_options(cfg, dict(shot=1, max_iters=10))


def test_the_config_of_a_run_knows_what_it_referred_to():
    cfg = few_shot()
    settle_variables(cfg)
    refuse_idle_options(cfg, dict(shot=5))  # That it comes too late is for settle_variables to say.


def test_the_name_of_a_folder_is_no_effect():
    cfg = Config(dict(shot=1, run_folder='{shot}shots'))
    with pytest.raises(ValueError, match='refers to shot'):
        refuse_idle_options(cfg, dict(shot=2))


@pytest.mark.parametrize('prepare', [prepare_train_cfg, lambda cfg: prepare_test_cfg(cfg, 'epoch_1.pth')])
@pytest.mark.parametrize('name, meant', [('shots', 'shot'), ('spilt', None), ('dataset_nam', 'dataset_name')])
def test_a_mistyped_variable_in_a_file_is_warned_of(warnings, prepare, name, meant):
    cfg = few_shot(dataset_name='toy', run_folder='{dataset_name}', **{name: 'x'})
    prepare(cfg)
    assert warnings == ([(
        f'The config sets {name!r}, which nothing in it refers to, so that it has no effect; did you mean {meant!r}?',
        logging.WARNING)] if meant else [])


@pytest.mark.parametrize('folder', sorted({path.parent for path in (ROOT / 'configs').rglob('*.py')
                                           if '_base_' not in path.parts}), ids=lambda folder: folder.name)
def test_no_false_alarm_on_the_configs_here(warnings, folder):
    paths = sorted(folder.glob('*.py'))
    for path in paths[::max(1, len(paths) // 6)]:
        warn_of_mistyped_variables(Config.fromfile(path))
    assert not warnings
