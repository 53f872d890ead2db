"""The sweep tool with real runs: trained and tested, killed with everything and gone on with; and stubs on Ray."""

import json
import sys
import time
from pathlib import Path

import pytest
import tiny
from mmengine.config import Config

from mmlora.apis.sweep_engines import ENGINES
from mmlora.apis.sweep_job import check_apart, run_job
from mmlora.apis.sweep_lock import lock_folder
from mmlora.apis.sweep_state import write_state

OPTIONS = {
    'model.backbone.type': 'VitSR_LoRA', 'model.backbone.lora_ranks': 2, 'train_cfg.max_epochs': 2,
    'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 2,
    'param_scheduler.0.T_max': 10, 'optim_wrapper.optimizer.lr': 0.003,
}  # yapf: disable
LAST = 'iter_10.pth'


def run_inside(launches, resources):
    """An engine without processes of its own, which saves their imports."""
    for launch in launches:
        folder = Path(launch.folder)
        write_state(folder, attempts=1)
        run_job(folder)
        write_state(folder, seconds=0.0)
        yield launch.folder


def sweep_inside(*words):
    """Call the tool with real runs inside this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, 'local', run_inside)
        return tiny.call_tool('sweep', *words)


@pytest.fixture(scope='module')
def sweep_file(tmp_path_factory, images):
    """A sweep of two seeds of the tiny config."""
    tmp_path = tmp_path_factory.mktemp('sweep')
    options = {key: [value] for key, value in {**OPTIONS, **tiny.data_options(images)}.items()}
    config = tmp_path / 'tiny_vit.py'
    config.write_text(tiny.CONFIG.read_text())
    path = tmp_path / 'sweep.py'
    path.write_text(f'configs = ["tiny_vit.py"]\noptions = {{**{options!r}, "randomness.seed": [0, 1]}}\n')
    return path


@pytest.fixture(scope='module')
def whole(tmp_path_factory, sweep_file):
    """The folders of the runs of the sweep by seed, done without interruption."""
    work_dir = tmp_path_factory.mktemp('whole')
    assert sweep_inside(sweep_file, '--work-dir', work_dir) == 0
    summary = (work_dir / 'summary.md').read_text()
    assert '2 of 2 runs are done.' in summary and '(2) |' in summary and (work_dir / 'summary.csv').is_file()
    return {json.loads(path.read_text())['options']['randomness.seed']: path.parent
            for path in work_dir.rglob('job.json')}


def metrics(folder):
    return json.loads((folder / 'results.json').read_text())['results'][0]['metrics']


@pytest.mark.slow
def test_a_sweep_killed_with_its_run_ends_as_one_that_was_not(tmp_path, sweep_file, whole, capfd):
    killed = tmp_path / 'killed'
    words = [sweep_file, '--work-dir', killed, '--seeds', 0, '--threads', 1]
    with tiny.copied(lambda: tiny.call_tool('sweep', *words)) as at_it:
        deadline = time.monotonic() + 120
        while not list(killed.rglob('iter_4.pth')) and at_it() and time.monotonic() < deadline:
            time.sleep(0.005)
    [folder] = [path.parent for path in killed.rglob('job.json')]
    with lock_folder(folder, '.job.lock', wait=60):  # Nobody is at it any more: the run went with its sweep.
        left = json.loads((folder / 'job.json').read_text())
        assert left['status'] == 'running' and not (folder / 'results.json').exists()
    assert tiny.call_tool('sweep', '--resume', '--work-dir', killed) == 0
    said = capfd.readouterr().out
    assert 'goes on from iter_' in said and '1 of 1 runs are done.' in said
    assert 'resumed epoch' in (folder / 'job.log').read_text()
    assert not tiny.differing_runs(whole[0] / LAST, folder / LAST)
    assert metrics(whole[0]) == metrics(folder)

    # A checkpoint of another run is not gone on with.
    (folder / LAST).write_bytes((whole[1] / LAST).read_bytes())
    with pytest.raises(ValueError, match=f'{LAST} is of another run'):
        run_job(folder)


RAY = '''
import sys
from pathlib import Path
from mmlora.apis.sweep import How, Plan, sweep
from mmlora.apis.sweep_engines import Resources
from mmlora.apis.sweep_plan import Grid
config, stub, folder = map(Path, sys.argv[1:])
resources = Resources(workers=1, threads=1, program=(sys.executable, str(stub)))
report = sweep(Plan(Grid((config, ), {'fate': ['crash', 'fine']})), folder, How('ray', resources))
assert report.done == ['toy/fate-fine'], report
assert report.failed == {'toy/fate-crash': ('exit status 1', 'the stub is at toy/fate-crash\\nout of luck\\n')}, report
'''


@pytest.mark.slow
def test_ray_runs_the_same_processes(tmp_path):
    pytest.importorskip('ray')
    (tmp_path / 'toy.py').write_text(
        "fate, lr, shot, method, dataset_name = 'fine', 1, 1, 'stub', 'toy'\n"
        "test_dataloader = dict(dataset=dict(type='Toy'))\ntest_evaluator = dict(type='Accuracy')\ntest_cfg = dict()\n")
    stub = tiny.ROOT / 'tests' / 'test_apis' / 'sweep_stub.py'
    tiny.run_tool(sys.executable, '-c', RAY, tmp_path / 'toy.py', stub, tmp_path / 'sweep')
    assert '1 of 2 runs are done, 1 have failed.' in (tmp_path / 'sweep' / 'summary.md').read_text()
    assert (tmp_path / 'sweep' / 'toy' / 'fate-fine' / 'calls').read_text().endswith(' 1\n')  # Its threads.


def validated_on(images, part, folder):
    """Return the options of the tiny config with the images of one loader in another folder."""
    return {**tiny.data_options(images), f'{part}_dataloader.dataset.data_root': str(folder)}


@pytest.mark.slow
def test_settings_are_chosen_and_tested(tmp_path, images, capfd):
    options = validated_on(images, 'val', tiny.make_images(tmp_path / 'other', 3))
    words = [tiny.CONFIG, '--work-dir', tmp_path / 'sweep', '--seeds', 0, '--tune-seeds', 1, '--tune',
             'optim_wrapper.optimizer.lr=0.003,0.03', '--set', 'train_cfg.max_epochs=1',
             *(f'{key}={value}' for key, value in options.items())]
    assert sweep_inside(*words) == 0
    said = capfd.readouterr().out
    assert '1 of 1 runs are done' in said and '| 2 of 2 | optimizer.lr=0.0' in said
    assert {path.relative_to(tmp_path / 'sweep').parts[0] for path in tmp_path.rglob('results.json')} == {'final'}


@pytest.mark.parametrize('part, message', [
    ('val', None),
    ('test', '36 of the 36 validation images are trained on too'),
    ('train', '36 of the 36 validation images are tested on too'),
])
def test_settings_are_not_chosen_on_images_of_training_or_test(tmp_path, images, part, message):
    options = validated_on(images, part, tiny.make_images(tmp_path / 'other', 3))
    if message is None:
        return check_apart(Config.fromfile(tiny.CONFIG), options)
    with pytest.raises(ValueError, match=message):
        check_apart(Config.fromfile(tiny.CONFIG), options)


@pytest.mark.parametrize('words, message', [
    ([], 'name a sweep file or configs'),
    (['--resume'], 'name a sweep file or configs'),
    ([tiny.CONFIG, '--choose-by', 'auc/mean'], 'need --tune KEY=V1,V2'),
    (['--resume', '--work-dir', 'x', '--seeds', 1], 'is gone on with as it is'),
])
def test_words_that_do_not_fit(words, message, capsys):
    with pytest.raises(SystemExit):
        tiny.call_tool('sweep', *words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('words, message', [
    (['nothing.py'], "there is no file 'nothing.py'"),
    (['--summary-only', '--work-dir', 'nowhere'], 'holds no sweep'),
    ([tiny.CONFIG, '--set', 'a=1', 'a=2'], 'a is set twice'),
    ([tiny.CONFIG, '--tune', 'a=1,2', '--tune-set', 'b=1,2'], 'takes one value a key, got b=1,2'),
    ([tiny.CONFIG, 'configs/sweeps/digits.py'], 'a sweep file comes alone'),
    ([tiny.CONFIG, '--set', 'train_cgf.max_epochs=1'], "did you mean 'train_cfg'"),
    ([tiny.CONFIG, '--gpus', '0', '--engine', 'ray'], '--gpus-per-job'),
])
def test_errors_are_said_in_a_line(words, message, capsys, monkeypatch):
    monkeypatch.chdir(tiny.ROOT)
    assert tiny.call_tool('sweep', *words) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error


def test_a_dry_run_changes_nothing(tmp_path, sweep_file, capsys):
    assert tiny.call_tool('sweep', sweep_file, '--work-dir', tmp_path / 'none', '--dry-run') == 0
    assert capsys.readouterr().out.count('new not begun') == 2 and not (tmp_path / 'none').exists()
