"""Variables that the command line can still set after Python has run a config."""

import pytest
from mmengine.config import Config
from tiny import CONFIG

from mmlora.apis import prepare_test_cfg, prepare_train_cfg, settle_variables
from mmlora.apis.resuming import settle_seed


def few_shot(**variables):
    cfg = Config.fromfile(CONFIG)
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'].dataset.n_shot = '{shot}'
    cfg.train_dataloader.dataset.exp = '{split}'
    cfg.merge_from_dict({**dict(shot=1, split=1), **variables})
    return cfg


def test_options_reach_every_data_set_that_refers_to_them():
    cfg = few_shot()
    cfg.merge_from_dict(dict(shot=5, split=2))
    assert settle_variables(cfg) == dict(shot=5, split=2)
    assert cfg.train_dataloader.dataset.n_shot == cfg.val_dataloader.dataset.n_shot == 5
    assert cfg.train_dataloader.dataset.exp == 2
    assert settle_variables(cfg) == {}


def test_wrapped_data_sets_are_searched():
    cfg = few_shot()
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner, dict(inner, exp=4)])
    settle_variables(cfg)
    assert [d.exp for d in cfg.train_dataloader.dataset.datasets] == [1, 4]


@pytest.mark.parametrize('shot, folder', [(5, 'shot5_split1_seed0'), (None, 'shot-full_split1_seed0')])
def test_each_setting_has_a_folder_of_its_own(shot, folder):
    cfg = few_shot()
    cfg.shot = shot
    trained, tested = prepare_train_cfg(cfg), prepare_test_cfg(cfg, 'epoch_1.pth')
    assert trained.work_dir == tested.work_dir == f'work_dirs/tiny_vit/{folder}'
    assert trained.train_dataloader.dataset.dataset.n_shot is shot
    assert prepare_train_cfg(cfg, work_dir='elsewhere').work_dir == 'elsewhere'


def test_a_seed_that_is_drawn_by_chance_is_not_in_the_name():
    cfg = few_shot()
    cfg.randomness = dict(seed=None)
    assert prepare_train_cfg(cfg).work_dir == 'work_dirs/tiny_vit/shot1_split1'
    cfg.randomness = dict(seed=7)
    assert prepare_train_cfg(cfg).work_dir == 'work_dirs/tiny_vit/shot1_split1_seed7'


def test_a_longer_text_holds_the_values():
    cfg = few_shot()
    cfg.train_dataloader.dataset.ann_file = 'lists/train_{shot}-shot_exp{split}.txt'
    cfg.merge_from_dict(dict(shot=5, split=2))
    assert settle_variables(cfg) == dict(shot=5, split=2)
    assert cfg.train_dataloader.dataset.ann_file == 'lists/train_5-shot_exp2.txt'
    cfg = few_shot()
    cfg.train_dataloader.dataset.ann_file = 'lists/train_{shot}-shot.txt'
    cfg.shot = None
    with pytest.raises(ValueError, match=r"ann_file writes 'shot' into a text, but its value is None"):
        settle_variables(cfg)


def test_a_config_without_variables_keeps_its_folder():
    cfg = Config.fromfile(CONFIG)
    assert settle_variables(cfg) == {} and 'settled_variables' not in cfg
    assert prepare_train_cfg(cfg).work_dir == 'work_dirs/tiny_vit'


@pytest.mark.parametrize('name, value, message', [
    ('shot', 0, 'shot must be .* got 0'),
    ('shot', 'five', "got 'five'"),
    ('shot', True, 'got True'),
    ('split', None, 'split must be .* got None'),
    ('split', 1.5, 'got 1.5'),
])
def test_values_out_of_range(name, value, message):
    cfg = few_shot()
    cfg[name] = value
    with pytest.raises(ValueError, match=message):
        settle_variables(cfg)


def test_a_missing_variable_is_named_with_its_place():
    cfg = few_shot()
    cfg.pop('split')
    with pytest.raises(ValueError, match=r"train_dataloader\.dataset\.exp refers to the variable 'split'"):
        settle_variables(cfg)


def test_a_run_that_is_over_cannot_be_given_another_shot():
    cfg = prepare_train_cfg(few_shot())
    assert prepare_train_cfg(cfg).work_dir == cfg.work_dir
    cfg.merge_from_dict(dict(shot=5))
    with pytest.raises(ValueError, match="'shot': 5.*comes too late.*'shot': 1"):
        prepare_train_cfg(cfg)


def drawn(**options):
    cfg = few_shot(**options)
    cfg.train_dataloader.dataset.seed = '{seed}'
    return cfg


def test_the_seed_of_the_run_is_a_variable():
    cfg = drawn()
    cfg.merge_from_dict({'randomness.seed': 3})
    assert settle_variables(cfg) == dict(shot=1, split=1, seed=3) and cfg.train_dataloader.dataset.seed == 3
    assert settle_variables(cfg) == {}
    assert prepare_train_cfg(drawn(**{'randomness.seed': 3})).work_dir == 'work_dirs/tiny_vit/shot1_split1_seed3'
    cfg.randomness.seed = 4
    with pytest.raises(ValueError, match="'seed': 4.*comes too late.*'seed': 3"):
        settle_variables(cfg)


@pytest.mark.parametrize('options, message', [
    ({'randomness.seed': None}, 'seed must be a whole number of at least 0, set by randomness.seed, got None'),
    ({'randomness.seed': -1}, 'got -1'),
    (dict(seed=3), r'dataset\.seed refers to the seed of the run, but .* seed=3: set randomness.seed instead'),
])
def test_seeds_that_cannot_be_used(options, message):
    with pytest.raises(ValueError, match=message):
        settle_variables(drawn(**options))


def test_a_run_goes_on_with_the_images_of_its_seed():
    cfg = drawn(**{'randomness.seed': 2})
    settle_variables(cfg)
    with pytest.raises(ValueError, match='by randomness.seed=2, but .* has the seed 1: set randomness.seed=1'):
        settle_seed(cfg, dict(seed=1))
    assert settle_seed(cfg, dict(seed=2)) == settle_seed(cfg) == 2


def test_a_loader_that_is_built_already_has_no_variables():
    cfg = few_shot()
    cfg.val_dataloader = object()
    assert settle_variables(cfg) == {'shot': 1, 'split': 1}


# A variable that chooses others, and validation that may be left out.


def tuned(**options):
    cfg = Config.fromfile(CONFIG)
    cfg.train_dataloader.dataset.split, cfg.val_dataloader.dataset.split = '{train_split}', '{val_split}'
    cfg.merge_from_dict(dict(
        tune=False, train_split=dict(tune='train', otherwise='trainval'), val_split=dict(tune='val', otherwise=None)))
    cfg.pop('val_cfg')
    cfg.merge_from_dict(options)
    return cfg


def test_one_variable_chooses_what_is_trained_and_validated():
    cfg = tuned()
    assert settle_variables(cfg) == dict(tune=False) and settle_variables(cfg) == {}
    assert cfg.train_dataloader.dataset.split == cfg.train_split == 'trainval'
    assert cfg.val_dataloader is cfg.val_evaluator is cfg.val_cfg is cfg.val_split is None
    cfg = tuned(tune=True)
    assert settle_variables(cfg) == dict(tune=True)
    assert (cfg.train_dataloader.dataset.split, cfg.val_dataloader.dataset.split) == ('train', 'val')
    assert cfg.val_cfg == {} and cfg.val_evaluator
    cfg = tuned(val_dataloader=None, val_evaluator=None, val_cfg={})
    settle_variables(cfg)
    assert cfg.val_cfg is None
    cfg = tuned(val_dataloader=None, val_cfg={})  # An evaluator without data is a mistake, which the runner names.
    settle_variables(cfg)
    assert cfg.val_cfg == {} and cfg.val_evaluator
    cfg = tuned(train_split='half', val_split='rest')
    assert settle_variables(cfg) == dict(train_split='half', val_split='rest')


@pytest.mark.parametrize('options, folder', [
    (dict(), 'seed0'), (dict(tune=True), 'tune_seed0'), (dict(train_split='half'), 'train_split-half_seed0'),
    (dict(tune=True, val_split=None), 'val_split-none_tune_seed0'),
])
def test_folders_of_chosen_splits(options, folder):
    trained, tested = prepare_train_cfg(tuned(**options)), prepare_test_cfg(tuned(**options), 'epoch_1.pth')
    assert trained.work_dir == tested.work_dir == f'work_dirs/tiny_vit/{folder}'


def test_a_run_that_is_over_cannot_be_tuned():
    cfg = prepare_train_cfg(tuned())
    assert prepare_train_cfg(cfg).work_dir == cfg.work_dir
    cfg.tune = True
    with pytest.raises(ValueError, match="'tune': True.*comes too late.*'tune': False"):
        prepare_train_cfg(cfg)


@pytest.mark.parametrize('options, message', [
    (dict(train_split=None), 'train_split must be the name of a split, got None'),
    (dict(val_split=''), "val_split must be the name of a split, or None for no validation, got ''"),
    (dict(tune=1), 'chosen by tune, which must be True or False, got 1'),
    (dict(train_split=dict(tune='train', final='trainval')), "train_split = .* must have .* 'otherwise'"),
])
def test_choices_that_cannot_be_made(options, message):
    with pytest.raises(ValueError, match=message):
        settle_variables(tuned(**options))


# The length of a run, and its folder by a text.


def timed(max_iters, shot=4, **options):
    cfg = few_shot(shot=shot, max_iters=max_iters, **options)
    cfg.train_cfg = dict(by_epoch=False, max_iters='{max_iters}', val_interval='{max_iters}')
    cfg.param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max='{max_iters}', end='{max_iters}')]
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval='{max_iters}')
    return cfg


TABLE = dict(from_shot_1=50, from_shot_2=100, from_shot_8=200)


@pytest.mark.parametrize('rule, shot, length', [
    (dict(per_shot=500), 1, 500), (dict(per_shot=500), 4, 2000), (dict(per_shot=300), 16, 4800), (700, 4, 700),
    (700, None, 700), (TABLE, 1, 50), (TABLE, 2, 100), (TABLE, 7, 100), (TABLE, 8, 200), (TABLE, 16, 200),
])
def test_the_length_of_a_run_follows_from_the_shots(rule, shot, length):
    cfg = timed(rule, shot)
    assert settle_variables(cfg) == dict(shot=shot, split=1)
    (schedule,) = cfg.param_scheduler
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval,
            schedule.T_max, schedule.end, cfg.max_iters) == (length,) * 6
    assert settle_variables(cfg) == {}
    assert Config.fromstring(cfg.pretty_text, '.py').train_cfg.max_iters == length
    cfg.max_iters = length + 1
    with pytest.raises(ValueError, match=f"'max_iters': {length + 1}.*comes too late"):
        settle_variables(cfg)


def test_options_replace_the_rule_or_its_number():
    for option, length in ((dict(max_iters=700), 700), ({'max_iters.per_shot': 300}, 1200)):
        cfg = timed(dict(per_shot=500))
        cfg.merge_from_dict(option)
        settle_variables(cfg)
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].T_max == length


@pytest.mark.parametrize('rule, shot, message', [
    (dict(per_shot=500), None, r"max_iters = {'per_shot': 500} is by .* shot=None takes all: say .* max_iters=10000"),
    (dict(per_shot=0), 4, 'with whole numbers of at least 1'),
    (dict(per_shot=500, from_shot_1=3), 4, r'must be dict\(per_shot=...\)'),
    (dict(from_shot_2=100), 1, 'says nothing about shot=1: add from_shot_1'),
    (0, 4, 'max_iters must be a whole number of at least 1'), (None, 4, 'got None'), ('500', 4, "got '500'"),
])
def test_lengths_that_cannot_be(rule, shot, message):
    with pytest.raises(ValueError, match=message):
        settle_variables(timed(rule, shot))


def test_a_rule_needs_the_variable_shot():
    cfg = timed(dict(per_shot=500))
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'].dataset.n_shot = 1
    cfg.pop('shot')
    with pytest.raises(ValueError, match='no variable shot: add shot'):
        settle_variables(cfg)


def foldered(text='tiny/{dataset_name}/{shot}shots/seed{seed}', **options):
    return few_shot(run_folder=text, dataset_name='dtd', **options)


@pytest.mark.parametrize('cfg, folder', [
    (foldered(), 'work_dirs/tiny/dtd/1shots/seed0_split1'),
    (foldered('tiny/{shot}/{split}'), 'work_dirs/tiny/1/1'),
    (foldered('tiny/{shot}_{split}', shot=None, split=2), 'work_dirs/tiny/full_2'),
    (tuned(run_folder='tiny/seed{seed}'), 'work_dirs/tiny/seed0'),
    (tuned(run_folder='tiny/seed{seed}', tune=True), 'work_dirs/tiny/seed0_tune'),
    (tuned(run_folder='tiny/seed{seed}', tune=True, train_split='half'),
     'work_dirs/tiny/seed0_train_split-half_tune'),
    (timed(dict(per_shot=500), run_folder='tiny/{shot}/{split}'), 'work_dirs/tiny/4/1'),
    (timed(700, run_folder='tiny/{shot}/{split}'), 'work_dirs/tiny/4/1'),
])
def test_a_text_says_where_a_run_goes(cfg, folder):
    assert prepare_train_cfg(cfg).work_dir == prepare_test_cfg(cfg, 'epoch_1.pth').work_dir == folder
    assert prepare_train_cfg(prepare_train_cfg(cfg)).work_dir == folder
    assert prepare_train_cfg(cfg, work_dir='mine').work_dir == 'mine'
    cfg.work_dir = 'own'
    assert prepare_train_cfg(cfg).work_dir == 'own'


@pytest.mark.parametrize('text, options, message', [
    ('a/{backbone}', {}, "refers to the variable 'backbone', which the config does not define"),
    ('a/{dataset_name}', {'dataset_name': 'b/c'}, "dataset_name='b/c' in it, which cannot be a part"),
    ('a/{dataset_name}', {'dataset_name': '..'}, 'cannot be a part'),
    ('a/{model}', {}, 'cannot be a part'),
    ('a/seed{seed}', {'randomness.seed': None}, 'randomness.seed is None: set it'),
    ('/a', {}, "relative to work_dirs, got '/a'"), (' ', {}, "got ' '"), (3, {}, 'got 3'),
    ('a/../../b', {}, 'leads out of work_dirs'), ('a/{shot', {}, 'single brace'), ('a/{}', {}, "variable ''"),
])
def test_texts_that_are_no_folder(text, options, message):
    cfg = foldered(text)
    cfg.merge_from_dict(options)
    with pytest.raises(ValueError, match=message):
        prepare_train_cfg(cfg)
