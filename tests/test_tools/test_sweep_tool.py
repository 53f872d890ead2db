"""The sweep tool with real runs: trained and tested, killed with everything and gone on with, and on Ray."""

import json
import signal
import subprocess
import sys
import time

import pytest
import tiny
from mmengine.config import Config

from mmlora.apis.sweep_job import check_apart, run_job
from mmlora.apis.sweep_lock import lock_folder

OPTIONS = {
    'model.backbone.type': 'VitSR_LoRA', 'model.backbone.lora_ranks': 2, 'train_cfg.max_epochs': 2,
    'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 2,
    'param_scheduler.0.T_max': 10, 'optim_wrapper.optimizer.lr': 0.003,
}  # yapf: disable
LAST = 'iter_10.pth'


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
    """The folder of the sweep, done on this machine without interruption."""
    work_dir = tmp_path_factory.mktemp('whole')
    done = tiny.run_tool('tools/sweep.py', sweep_file, '--work-dir', work_dir, '--workers', 2, '--threads', 1)
    assert '2 of 2 runs are done.' in done.stdout and '(2) |' in done.stdout and (work_dir / 'summary.csv').is_file()
    return work_dir


def folders(work_dir):
    return sorted(path.parent for path in work_dir.rglob('job.json'))


def metrics(work_dir):
    return [json.loads((folder / 'results.json').read_text())['results'][0]['metrics'] for folder in folders(work_dir)]


@pytest.mark.slow
def test_a_sweep_killed_with_all_its_runs_ends_as_one_that_was_not(tmp_path, sweep_file, whole, capfd):
    killed = tmp_path / 'killed'
    words = [sys.executable, 'tools/sweep.py', str(sweep_file), '--work-dir', str(killed), '--threads', '1']
    process = subprocess.Popen(words, cwd=tiny.ROOT, env=tiny.tool_env(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(killed.rglob('iter_4.pth')) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = folders(killed)[0]
    with lock_folder(first, '.job.lock', wait=60):  # Nobody is at it any more: the run went with its sweep.
        left = json.loads((first / 'job.json').read_text())
        assert left['status'] == 'running' and not (first / 'results.json').exists()
    assert tiny.call_tool('sweep', '--resume', '--work-dir', killed) == 0
    said = capfd.readouterr().out
    assert 'goes on from iter_' in said
    assert 'resumed epoch' in (first / 'job.log').read_text()
    for one, other in zip(folders(whole), folders(killed), strict=True):
        assert not tiny.differing_runs(one / LAST, other / LAST)
    assert metrics(whole) == metrics(killed)

    # A checkpoint of another run is not gone on with.
    (first / LAST).write_bytes((folders(killed)[1] / LAST).read_bytes())
    with pytest.raises(ValueError, match=f'{LAST} is of another run'):
        run_job(first)


@pytest.mark.slow
def test_ray_gives_the_same_results(tmp_path, sweep_file, whole):
    pytest.importorskip('ray')
    words = ['--work-dir', tmp_path, '--workers', 2, '--threads', 1, '--engine', 'ray']
    tiny.run_tool('tools/sweep.py', sweep_file, *words)
    for one, other in zip(folders(whole), folders(tmp_path), strict=True):
        assert not tiny.differing_runs(one / LAST, other / LAST)
    assert metrics(whole) == metrics(tmp_path)
    assert (whole / 'summary.md').read_text() == (tmp_path / 'summary.md').read_text()


def validated_on(images, part, folder):
    """Return the options of the tiny config with the images of one loader in another folder."""
    return {**tiny.data_options(images), f'{part}_dataloader.dataset.data_root': str(folder)}


@pytest.mark.slow
def test_settings_are_chosen_and_tested(tmp_path, images):
    options = validated_on(images, 'val', tiny.make_images(tmp_path / 'other', 3))
    words = [tiny.CONFIG, '--work-dir', tmp_path / 'sweep', '--seeds', 0, '--tune-seeds', 1, '--tune',
             'optim_wrapper.optimizer.lr=0.003,0.03', '--set', 'train_cfg.max_epochs=1',
             *(f'{key}={value}' for key, value in options.items())]
    said = tiny.run_tool('tools/sweep.py', *words, '--workers', 2).stdout
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
