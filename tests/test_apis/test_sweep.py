"""Sweeps whose processes are stubs: what is run, skipped, refused and written down."""

import csv
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmlora.apis import sweep_job
from mmlora.apis.sweep import How, Plan, look, read_plan, summary_of, sweep
from mmlora.apis.sweep_engines import Resources, explain_exit, threads_of
from mmlora.apis.sweep_lock import lock_folder
from mmlora.apis.sweep_plan import (
    Grid,
    identity,
    is_sweep_file,
    make_jobs,
    name_point,
    only,
    parse_values,
    points,
    read_grid,
    seed_key,
    with_options,
)
from mmlora.apis.sweep_state import foreign_checkpoint, read_state
from mmlora.apis.sweep_tune import Tuning, choose, tuning_jobs

STUB = (sys.executable, str(Path(__file__).with_name('sweep_stub.py')))
CONFIG = '''
fate = 'fine'
lr = 1
shot = 1
randomness = dict(seed=0)
work_dir = 'anywhere'
dataset_name = 'toy'
train_dataloader = dict(dataset=dict(type='Toy', data_root='data', n_shot='{shot}', seed=0))
val_dataloader = dict(dataset=dict(type='Toy', data_root='data', split='val'))
val_evaluator = dict(type='Accuracy')
test_dataloader = dict(dataset=dict(type='Toy', data_root='data', split='test'))
test_evaluator = dict(type='Accuracy')
test_cfg = dict()
'''


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'configs' / 'toy.py'
    path.parent.mkdir()
    path.write_text(CONFIG)
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'sweep'


def grid_of(config, **options):
    return Grid((config, ), {key.replace('seed', 'randomness.seed'): values for key, values in options.items()})


def how(**options):
    lines = []
    resources = Resources(program=STUB, **options.pop('resources', dict(workers=2)))
    made = How(resources=resources, **{'say': lines.append, **options})
    return made, lines


def go(grid, folder, **options):
    made, lines = how(**options)
    return sweep(grid if isinstance(grid, Plan) else Plan(grid), folder, made), lines


def calls(folder):
    return {path.parent.relative_to(folder).as_posix(): len(path.read_text().splitlines())
            for path in sorted(folder.rglob('calls'))}


# What is to be run


@pytest.mark.parametrize('text, key, values', [
    ('shot=1,5', 'shot', [1, 5]),
    ('a.lr=1e-3, 5e-3', 'a.lr', [1e-3, 5e-3]),
    ('r=[1,2],[3]', 'r', [[1, 2], [3]]),
    ('r=[[1,2],[3,4]],[5]', 'r', [[[1, 2], [3, 4]], [5]]),
    ('r=(1,2)', 'r', [(1, 2)]),
    ('shot=None,x,True', 'shot', [None, 'x', True]),
])
def test_values_of_the_command_line(text, key, values):
    assert parse_values(text) == (key, values)


@pytest.mark.parametrize('text', ['shot', '=1', 'shot=', 'shot=1,,2', 'shot=[1,2'])
def test_values_that_cannot_be_read(text):
    with pytest.raises(ValueError, match='key=value1,value2, got'):
        parse_values(text)


@pytest.mark.parametrize('point, name', [
    (dict(shot=5, split=2) | {'randomness.seed': 0}, 'shot5_split2_seed0'),
    ({'randomness.seed+train_dataloader.dataset.seed': 7}, 'seed7'),
    ({'a.lr': 0.001, 'method': 'x'}, 'lr0.001'),
    ({'a.lr': 0.1, 'b.lr': 0.2}, 'a.lr0.1_b.lr0.2'),
    (dict(shot=None, tune=True), 'shot-None_tune-True'),
    (dict(r=(1, 2)), name_point(dict(r=[1, 2]))),
    ({}, 'run'),
])
def test_folders_are_named_after_settings(point, name):
    assert name_point(point) == name


def test_names_that_lose_something_end_in_a_hash():
    names = [name_point({'w': text}) for text in ('a/b', 'a:b', 'x' * 300, 'x' * 301)]
    assert len(set(names)) == 4 and all('/' not in name and len(name) < 150 for name in names)
    assert names[0].startswith('w-a-b_')
    assert 'seed7_' in name_point({'w': 'x' * 300, 'randomness.seed': 7})


def test_the_identity_is_the_settled_config_without_places(config):
    text = config.read_text()

    def key(text=text, **options):
        config.write_text(text)
        return make_jobs([(config, options)])[0].key

    own = key()
    for other in (text.replace("'anywhere'", "'elsewhere'"), text.replace("data_root='data'", "data_root='/mnt/data'"),
                  text + '# a comment\n'):
        assert key(other) == own
    assert key(shot=1) == own
    for other in (key(text.replace('lr = 1', 'lr = 2')), key(shot=5), key(text.replace("split='test'", "split='t2'"))):
        assert other != own


def test_variables_are_settled_and_seeds_joined(config):
    grid = with_options(grid_of(config), {'randomness.seed+train_dataloader.dataset.seed': [3]}, seeds=[4, 5])
    jobs = make_jobs([(config, {**point, 'shot': 5}) for point in points(grid.options)])
    assert [job.options['train_dataloader.dataset.seed'] for job in jobs] == [4, 5]
    assert jobs[1].settled['randomness'] == {'seed': 5}
    assert jobs[1].settled['train_dataloader']['dataset'] == dict(type='Toy', n_shot=5, seed=5)
    assert seed_key({}) == 'randomness.seed' and list(with_options(grid_of(config), {}, [1]).options) == [seed_key({})]


def test_measuring_on_validation_never_shows_the_test_data(config):
    [job] = make_jobs([(config, {})], measure='val')
    assert job.settled['test_dataloader'] == job.settled['val_dataloader'] == {'dataset': dict(type='Toy', split='val')}
    assert job.key != make_jobs([(config, {})])[0].key


@pytest.mark.parametrize('change, options, measure, message', [
    (('', ''), dict(splitt=1), 'test', None),
    (('', ''), dict(shots=1), 'test', "did you mean 'shot'"),
    (('', ''), dict(split=2), 'test', 'refers to split, so that setting it has no effect'),
    (("'{shot}'", '1'), dict(shot=2), 'test', 'refers to shot'),
    (('', ''), dict(shot=0), 'test', 'shot must be'),
    (('test_evaluator', 'tst_evaluator'), {}, 'test', 'has no test data'),
    (('val_dataloader', 'other'), {}, 'val', 'no validation data to choose settings with.*--tune-set tune=True'),
    (("split='val'", "split='test'"), {}, 'val', 'validation data of .* are its test data'),
])
def test_settings_that_cannot_be_used(config, change, options, measure, message):
    config.write_text(CONFIG.replace(*change))
    if message is None:
        return make_jobs([(config, options)], measure=measure)
    with pytest.raises(ValueError, match=message):
        make_jobs([(config, options)], measure=measure)


def test_values_that_results_do_not_name_have_tables_of_their_own(config, folder):
    grid = grid_of(config, lr=[1, 3], shot=[1, 5], seed=[0, 1])
    report, _ = go(grid, folder)
    first, second = report.summary.partition('## lr=3\n')[::2]
    assert '## lr=1\n' in first and first.count('50.05 ± 0.07 (2)') == second.count('48.05 ± 0.07 (2)') == 2
    assert 'conflict' not in report.summary and '48.05' not in first
    with open(folder / 'summary.csv', encoding='utf-8') as file:
        assert len(list(csv.DictReader(file))) == 8


def test_a_plan_with_tuples_is_gone_on_with(config, folder):
    config.write_text(CONFIG + 'sizes = [0, 0]\n')
    plan = Plan(grid_of(config, sizes=[(1, 2), (3, 4)]))
    go(plan, folder)
    report, lines = go(read_plan(folder), folder)
    assert len(report.done) == 2 and lines == ['0 runs to do, 2 of 2 are ended already.']


def test_runs_that_are_the_same(config):
    with pytest.raises(ValueError, match='toy/shot1 and toy/lr1 are the same run'):
        make_jobs([(config, dict(shot=1)), (config, dict(lr=1))])
    with pytest.raises(ValueError, match='two runs have the folder toy/shot1'):
        make_jobs([(config, dict(shot=1)), (config, dict(shot=1))])


def test_configs_of_one_name_have_folders_of_their_own(config, tmp_path):
    other = tmp_path / 'more' / 'toy.py'
    other.parent.mkdir()
    other.write_text(CONFIG.replace('lr = 1', 'lr = 9'))
    assert [job.name for job in make_jobs([(config, {}), (other, {})])] == ['configs_toy/run', 'more_toy/run']


def test_a_sweep_file(config, tmp_path):
    path = tmp_path / 'sweep.py'
    path.write_text("configs = ['configs/toy.py']\noptions = {'shot': [1, 5], 'randomness.seed': [0]}\n")
    grid = read_grid(path)
    assert grid == Grid((config.resolve(), ), {'shot': [1, 5], 'randomness.seed': [0]})
    assert is_sweep_file(path) and not is_sweep_file(config)
    (tmp_path / 'half.py').write_text("configs = ['configs/toy.py']\n")
    assert is_sweep_file(tmp_path / 'half.py')  # So that its reader says what it lacks.
    assert with_options(grid, dict(shot=[10]), [1, 2]).options == {'shot': [10], 'randomness.seed': [1, 2]}
    assert only(grid, ['toy'], ['t*y']) == grid
    for arguments, message in (([['moon']], "'moon' fits none of the configs: there are toy"),
                               ([[], ['x*']], "'x\\*' fits none of the configs: there are toy")):
        with pytest.raises(ValueError, match=message):
            only(grid, *arguments)


@pytest.mark.parametrize('text, error, message', [
    ("configs = ['configs/toy.py']", ValueError, 'this file has configs'),
    ('configs = []\noptions = {}', ValueError, 'a sweep has a list of "configs"'),
    ("configs = ['moon.py']\noptions = {}", FileNotFoundError, 'moon.py'),
    ("configs = ['configs/toy.py']\noptions = dict(shot=1)", ValueError, "'shot' needs a list .* got 1"),
    ("configs = ['configs/toy.py']\noptions = dict(shot=[])", ValueError, "'shot' needs a list"),
    ("configs = ['configs/toy.py']\noptions = {'a+b': [1], 'b': [2]}", ValueError, "'a\\+b' and 'b' set the same key"),
])
def test_sweep_files_that_cannot_be_used(config, tmp_path, text, error, message):
    path = tmp_path / 'sweep.py'
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_grid(path)


# What becomes of it


def test_every_run_is_done_once(config, folder):
    grid = grid_of(config, shot=[1, 5], seed=[0, 1])
    report, lines = go(grid, folder)
    names = [f'toy/shot{shot}_seed{seed}' for shot in (1, 5) for seed in (0, 1)]
    assert sorted(report.done) == names and not report.failed
    assert calls(folder) == dict.fromkeys(names, 1)
    again, lines = go(grid, folder)
    assert again.done == names and calls(folder) == dict.fromkeys(names, 1)
    assert lines == ['0 runs to do, 4 of 4 are ended already.'] and again.summary == report.summary
    assert '4 of 4 runs are done.' in report.summary and '50.05 ± 0.07 (2)' in report.summary
    assert (folder / 'summary.md').read_text() == report.summary
    with open(folder / 'summary.csv', encoding='utf-8') as file:
        assert sorted(row['value'] for row in csv.DictReader(file)) == ['50.0', '50.0', '50.1', '50.1']
    assert 'Incomplete' not in report.summary
    grown, _ = go(grid_of(config, shot=[1, 5, 10], seed=[0, 1]), folder)
    assert len(grown.done) == 6 and set(calls(folder).values()) == {1}


@pytest.mark.parametrize('fate, reason, tail', [
    ('crash', 'exit status 1', 'the stub is at toy/fate-crash\nout of luck\n'),
    ('killed', 'killed by SIGKILL, as the system does when memory runs out', 'the stub is at toy/fate-killed\n'),
    ('silent', 'the process has ended without a result', 'the stub is at toy/fate-silent\n'),
])
def test_a_failure_is_noted_and_the_others_go_on(config, folder, fate, reason, tail):
    report, lines = go(grid_of(config, fate=[fate, 'fine']), folder, resources=dict(workers=1))
    assert report.done == ['toy/fate-fine'] and report.failed == {f'toy/fate-{fate}': (reason, tail)}
    assert any(f'toy/fate-{fate}: FAILED, {reason}' in line and 'job.log' in line for line in lines)
    assert '1 of 2 runs are done, 1 have failed.' in report.summary and f'toy, fate={fate}: 0 of 1' in report.summary
    again, _ = go(grid_of(config, fate=[fate, 'fine']), folder)
    assert set(again.failed) == set(report.failed) and calls(folder)[f'toy/fate-{fate}'] == 1
    tried, _ = go(grid_of(config, fate=[fate, 'fine']), folder, retry_failed=True)
    assert set(tried.failed) == set(report.failed)
    assert calls(folder) == {f'toy/fate-{fate}': 2, 'toy/fate-fine': 1}
    assert read_state(folder / f'toy/fate-{fate}')['attempts'] == 2


def remove(path):
    path.unlink()


def other_content(path):
    path.write_bytes(path.read_bytes()[::-1])


def other_time(path):
    os.utime(path, ns=(1, 1))


def no_result(path):
    path.write_text(json.dumps(dict(format='mmlora results 1', results=[])))


@pytest.mark.parametrize('file, change, why', [
    ('epoch_1.pth', remove, 'its checkpoint epoch_1.pth is gone'),
    ('epoch_1.pth', other_content, 'its checkpoint epoch_1.pth has changed'),
    ('epoch_1.pth', other_time, None),
    ('results.json', remove, 'results.json has no result of epoch_1.pth'),
    ('results.json', no_result, 'results.json has no result of epoch_1.pth'),
])
def test_what_is_done_is_believed_only_with_its_files(config, folder, file, change, why):
    grid = grid_of(config)
    go(grid, folder)
    change(folder / 'toy/run' / file)
    report, lines = go(grid, folder)
    assert report.done == ['toy/run'] and calls(folder) == {'toy/run': 1 if why is None else 2}
    assert any(why in line for line in lines) if why else 'done' not in lines[0]


def test_a_changed_config_is_not_skipped(config, folder):
    grid = grid_of(config, shot=[1, 5])
    go(grid, folder)
    config.write_text(config.read_text().replace('lr = 1', 'lr = 2'))
    with pytest.raises(ValueError, match=r'(?s)2 runs .*\n  toy/shot1: lr: 1, now 2\n.*--restart-changed') as caught:
        go(grid, folder)
    assert 'replaced' in str(caught.value) and set(calls(folder).values()) == {1}
    assert all('changed lr: 1, now 2' in line for line in look(Plan(grid), folder))
    report, _ = go(grid, folder, restart_changed=True)
    assert len(report.done) == 2 and read_state(folder / 'toy/shot1')['settled']['lr'] == 2
    assert '49.00 (1)' in report.summary and '50.00' not in report.summary
    assert len(list((folder / 'replaced/toy').iterdir())) == 2
    for lr in (1, 2):  # Results that were replaced before stay.
        config.write_text(CONFIG.replace('lr = 1', f'lr = {lr}'))
        go(grid, folder, restart_changed=True)
    replaced = sorted(path.parent.name for path in (folder / 'replaced').rglob('results.json'))
    assert len(replaced) == 6 and len([name for name in replaced if name.endswith('_2')]) == 2


def test_an_interrupted_run_goes_on(config, folder):
    grid = grid_of(config, fate=['fine', 'sleep'])

    def interrupt(text):
        if text.startswith('[1/2]'):
            while not (folder / 'toy/fate-sleep/calls').exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(grid, folder, say=interrupt)
    state = read_state(folder / 'toy/fate-sleep')
    assert state['status'] == 'stopped' and read_state(folder / 'toy/fate-fine')['status'] == 'done'
    (folder / 'toy/fate-sleep/last_checkpoint').write_text('/old/place/iter_4.pth')
    (folder / 'toy/fate-sleep/iter_4.pth').write_bytes(b'x')
    assert look(Plan(grid), folder) == ['toy/fate-fine: skip done', 'toy/fate-sleep: again goes on from iter_4.pth']
    report, _ = go(grid, folder)
    assert len(report.done) == 2 and calls(folder) == {'toy/fate-fine': 1, 'toy/fate-sleep': 2}


def test_a_run_that_was_marked_as_running_when_all_was_killed(config, folder):
    go(grid_of(config), folder)
    state = read_state(folder / 'toy/run')
    (folder / 'toy/run/job.json').write_text(json.dumps({**state, 'status': 'running'}))
    report, lines = go(grid_of(config), folder)
    assert report.done == ['toy/run'] and calls(folder) == {'toy/run': 2}
    assert 'goes on from epoch_1.pth' in lines[0]


def test_one_sweep_at_a_time(config, folder):
    with lock_folder(folder, '.sweep.lock'):
        with pytest.raises(RuntimeError, match=rf'in use by process {os.getpid()} on .*--work-dir'):
            go(grid_of(config), folder)
    assert not calls(folder)
    assert go(grid_of(config), folder)[0].done == ['toy/run']


def test_runs_share_what_the_machine_has(config, folder, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS')
    resources = dict(workers=2, gpus=('3', '7'), threads=5)
    go(grid_of(config, seed=[0, 1, 2, 3]), folder, resources=resources)
    seen = {path.read_text().strip() for path in folder.rglob('calls')}
    assert seen <= {'3 5', '7 5'} and seen
    assert threads_of(Resources(workers=10**6), 'local') == 1 and threads_of(Resources(ray_address='auto'), 'ray') == 1


@pytest.mark.parametrize('options, message', [
    (dict(engine='moon'), "one of local, ray, got 'moon'"),
    (dict(engine='ray', resources=Resources(gpus=('0', ))), '--gpus-per-job'),
])
def test_engines_that_cannot_be_used(options, message):
    with pytest.raises(ValueError, match=message):
        How(**options)


@pytest.mark.parametrize('options', [dict(workers=0), dict(threads=0), dict(gpus_per_job=-1)])
def test_resources_out_of_range(options):
    with pytest.raises(ValueError, match='must be at least [01], got'):
        Resources(**options)


def test_without_ray_the_error_names_the_extra(config, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ImportError, match=r'pip install "mmlora\[ray\]"'):
        go(grid_of(config), folder, engine='ray')


def test_exit_states():
    assert [explain_exit(code) for code in (0, 2, -15)] == ['', 'exit status 2', 'killed by SIGTERM']


def test_the_plan_is_kept_with_the_folder(config, folder):
    plan = Plan(grid_of(config, seed=[1]), Tuning(dict(lr=[1, 2]), 'accuracy/top1', [5], dict(shot=1)), ('kappa', ))
    go(Plan(plan.grid, plan.tuning), folder)
    assert read_plan(folder) == Plan(plan.grid, plan.tuning)
    assert summary_of(read_plan(folder), folder) == (folder / 'summary.md').read_text()
    with pytest.raises(FileNotFoundError, match='holds no sweep'):
        read_plan(folder / 'nowhere')
    for text in ('[]', '{', '{}', '{"format": "mmlora sweep 1"}'):
        (folder / 'sweep.json').write_text(text)
        with pytest.raises(ValueError, match='sweep.json was not written by a sweep of this format'):
            read_plan(folder)
    (folder / 'toy').mkdir()
    (folder / 'toy/run').mkdir()
    for text in ('{', '{}'):
        (folder / 'toy/run/job.json').write_text(text)
        with pytest.raises(ValueError, match='job.json .*move the folder away'):
            go(grid_of(config), folder)


# Choosing settings


def tuned(config, **options):
    tuning = dict(options=dict(lr=[1, 3, 5]), metric='accuracy/top1', seeds=[100, 101], fixed=dict(fate='fine'))
    return Plan(grid_of(config, shot=[1, 5], seed=[0, 1]), Tuning(**{**tuning, **options}))


def test_settings_are_chosen_on_validation_data_and_only_these_tested(config, folder):
    # On validation data of the stub lr=3 is best, on its test data lr=1.
    report, lines = go(tuned(config), folder)
    ran = calls(folder)
    assert [name for name in ran if name.startswith('final')] == [
        f'final/toy/shot{shot}_seed{seed}_lr3' for shot in (1, 5) for seed in (0, 1)]
    assert [name for name in ran if name.startswith('tune')] == sorted(
        f'tune/toy/shot{shot}_lr{lr}_seed{seed}' for shot in (1, 5) for lr in (1, 3, 5) for seed in (100, 101))
    assert len(report.done) == 12 + 4 and '48.05 ± 0.07 (2)' in report.summary
    assert 'Chosen by accuracy/top1 on validation images' in report.summary
    assert '| toy | shot=1 | 6 of 6 | lr=3 | 60.05 | lr=1: 58.05, lr=5: 58.05 |' in report.summary
    assert all(not (folder / name / 'results.json').exists() for name in ran if name.startswith('tune'))
    [first, second] = json.loads((folder / 'choices.json').read_text())
    assert first['setting'] == second['setting'] == {'lr': 3} and second['about'] == {'shot': 5}
    again, _ = go(tuned(config), folder)
    assert calls(folder) == ran and again.summary == report.summary


def test_nothing_is_chosen_while_tuning_runs_are_missing(config, folder):
    report, _ = go(tuned(config, options=dict(lr=[1, 3], fate=['fine', 'crash']), fixed={}), folder)
    assert not [name for name in calls(folder) if name.startswith('final')] and len(report.failed) == 8
    assert '| nothing yet |' in report.summary and '4 of 8' in report.summary


def test_the_first_of_equal_settings_is_chosen(config, folder):
    plan = tuned(config, options=dict(lr=[5, 1]))
    go(plan, folder)
    choices = choose(tuning_jobs(plan.grid, plan.tuning), folder, 'accuracy/top1')
    assert [choice.setting for choice in choices] == [{'lr': 5}] * 2
    with pytest.raises(ValueError, match="no metric 'kappa' to choose by; there are accuracy/top1"):
        choose(tuning_jobs(plan.grid, plan.tuning), folder, 'kappa')


def test_what_is_chosen_is_not_reported_apart(config):
    plan = tuned(config, options={'shot': [1, 5]})
    with pytest.raises(ValueError, match='shot cannot be chosen'):
        tuning_jobs(plan.grid, plan.tuning)


def test_identity_is_plain_data(config):
    settled = identity(Config.fromfile(str(config)))
    assert json.loads(json.dumps(settled)) == settled and 'work_dir' not in settled


# A run that goes on


def save(path, key, iteration):
    meta = dict(epoch=1, iter=iteration, mmlora_cfg_text=f"sweep_job = '{key}'\n")
    torch.save(dict(state_dict={}, meta=meta, message_hub={}, optimizer={}), path)
    (path.parent / 'last_checkpoint').write_text(str(path))


def test_a_damaged_checkpoint_says_what_to_delete_and_then_the_run_goes_on(tmp_path):
    for iteration in (10, 20):
        save(tmp_path / f'iter_{iteration}.pth', 'own', iteration)
    (tmp_path / 'iter_20.pth').write_bytes(b'PK damaged')
    with pytest.raises(ValueError, match='delete .*iter_20.pth and .*last_checkpoint: '):
        foreign_checkpoint(tmp_path, 'own')
    for name in ('iter_20.pth', 'last_checkpoint'):
        (tmp_path / name).unlink()
    assert foreign_checkpoint(tmp_path, 'own') is None
    assert foreign_checkpoint(tmp_path, 'other') == str(tmp_path / 'iter_10.pth')


def test_a_run_whose_training_had_ended_is_tested_without_a_pointer_too(tmp_path, monkeypatch):
    save(tmp_path / 'iter_10.pth', 'own', 10)
    (tmp_path / 'last_checkpoint').unlink()
    tested = []
    for name, stub in dict(read_state=lambda folder: dict(key='own', measure='test'), _settle=lambda state: Config(),
                           train=lambda *args, **options: None, _finish=lambda *args: None,
                           test=lambda cfg, path, **options: tested.append(path)).items():
        monkeypatch.setattr(sweep_job, name, stub)
    sweep_job.run_job(tmp_path)
    assert tested == [str(tmp_path / 'iter_10.pth')]


def test_a_damaged_pointer_fails_its_run_alone(config, folder):
    go(grid_of(config, seed=[0, 1], fate=['crash']), folder)
    first = min(path.parent for path in folder.rglob('job.json'))
    (first / 'last_checkpoint').write_text('')
    _, lines = go(grid_of(config, seed=[0, 1], fate=['crash']), folder, retry_failed=True)
    assert any('is damaged: it should name a checkpoint' in line for line in lines)
    assert set(calls(folder).values()) == {2}
