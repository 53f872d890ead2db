"""The training and testing scripts: killed and resumed, and reproducing what training said."""

import json
import re
import time
from pathlib import Path

import pytest
import tiny
from mmengine.fileio import load

LORA = ['model.backbone.type=VitSR_LoRA', 'model.backbone.lora_ranks=2']
MID_EPOCH = ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=2']


def options(images: Path, *more: str) -> list[str]:
    return ['--cfg-options', *(f'{key}={value}' for key, value in tiny.data_options(images).items()), *more]


def logged_accuracies(folder: Path) -> list[float]:
    [log] = folder.glob('*/*.log')
    return [float(number) for number in re.findall(r'accuracy/top1: ([\d.]+)', log.read_text())]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, images):
    """The folder of a run of the script that has not learned everything."""
    folder = tmp_path_factory.mktemp('tool')
    tiny.call_tool('train', tiny.CONFIG, '--work-dir', folder, *options(
        images, *LORA, 'train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=0.003'))
    return folder


def test_testing_reproduces_what_training_printed(tmp_path, images, trained):
    # With the config that training dumped, whose ranks are numbers, and with another number of workers.
    tiny.call_tool(
        'test', trained / 'tiny_vit.py', trained / 'epoch_2.pth', '--work-dir', tmp_path, '--out',
        tmp_path / 'metrics.json', '--out-item', 'metrics', '--cfg-options', 'test_dataloader.num_workers=2',
    )
    [printed] = logged_accuracies(tmp_path)
    assert printed == logged_accuracies(trained)[-1] < 100
    assert json.loads((tmp_path / 'metrics.json').read_text())['accuracy/top1'] == pytest.approx(printed, abs=1e-3)


def test_predictions_and_test_time_augmentation(tmp_path, trained):
    for name, more in (('plain', []), ('tta', ['--tta', '--amp'])):
        tiny.call_tool('test', trained / 'tiny_vit.py', trained / 'epoch_2.pth', '--work-dir', tmp_path / name,
                       '--out', tmp_path / f'{name}.pkl', *more)
    plain, tta = (load(tmp_path / f'{name}.pkl') for name in ('plain', 'tta'))
    assert len(plain) == len(tta) == 36
    assert all(len(prediction['pred_score']) == 3 for prediction in plain + tta)
    assert any((p['pred_score'] - t['pred_score']).abs().max() > 1e-4 for p, t in zip(plain, tta, strict=True))


def test_predictions_are_drawn(tmp_path, trained):
    call = ['test', trained / 'tiny_vit.py', trained / 'epoch_2.pth', '--work-dir', tmp_path, '--show-dir',
            tmp_path / 'drawn', '--interval', 12]
    tiny.call_tool(*call)
    assert list((tmp_path / 'drawn').rglob('*.png'))
    with pytest.raises(ValueError, match='test-time augmentation cannot be drawn'):
        tiny.call_tool(*call, '--tta')


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_end(tmp_path, images):
    more = options(images, *LORA, *MID_EPOCH, 'train_dataloader.num_workers=2')
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    tiny.call_tool('train', tiny.CONFIG, '--work-dir', whole, *more)
    with tiny.copied(lambda: tiny.call_tool('train', tiny.CONFIG, '--work-dir', killed, *more)) as at_it:
        deadline = time.monotonic() + 120
        while not (killed / 'iter_4.pth').exists() and at_it() and time.monotonic() < deadline:
            time.sleep(0.005)
    assert (killed / 'last_checkpoint').exists()
    done = tiny.run_tool('tools/train.py', tiny.CONFIG, '--work-dir', killed, '--resume', *more)
    assert 'resumed epoch' in done.stdout + done.stderr
    assert not tiny.differing_runs(whole / 'iter_15.pth', killed / 'iter_15.pth')


def test_resuming_a_finished_run_does_nothing_more(images, trained):
    folder = trained
    before = (folder / 'epoch_2.pth').read_bytes()
    tiny.call_tool('train', folder / 'tiny_vit.py', '--work-dir', folder, '--resume', '--amp', '--no-validate',
                  '--auto-scale-lr', '--no-pin-memory', '--no-persistent-workers')
    assert (folder / 'epoch_2.pth').read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over_only_when_asked(tmp_path, images):
    words = [tiny.CONFIG, '--work-dir', tmp_path, *options(images, 'default_hooks.checkpoint.max_keep_ckpts=2')]
    tiny.call_tool('train', *words)
    newest, whole = tmp_path / 'epoch_3.pth', tmp_path / 'whole'
    content = bytearray(newest.read_bytes())
    newest.rename(whole)
    content[len(content) // 3] ^= 16
    newest.write_bytes(content)
    said = 'epoch_3.pth is damaged: (?s:.*)--resume previous.*epoch_2.pth, of iteration 10'
    with pytest.raises(ValueError, match=said):
        tiny.call_tool('train', *words, '--resume')
    tiny.call_tool('train', *words, '--resume', 'previous')
    assert not tiny.differing_runs(whole, newest)


@pytest.mark.parametrize('words', [
    ('train', 'nothing.py'),
    ('train', tiny.CONFIG, '--resume', 'nothing.pth'),
    ('test', tiny.CONFIG, 'nothing.pth'),
])  # yapf: disable
def test_files_that_are_not_there_are_named(tmp_path, words):
    with pytest.raises(FileNotFoundError, match='nothing'):
        tiny.call_tool(*words, '--work-dir', tmp_path)


def test_an_item_needs_a_file(capsys):
    with pytest.raises(SystemExit):
        tiny.call_tool('test', tiny.CONFIG, 'x.pth', '--out-item', 'pred')
    assert '--out-item needs --out' in capsys.readouterr().err


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_shell_scripts_say_how_they_are_used(script):
    done = tiny.run_tool('bash', f'tools/{script}', check=False)
    assert done.returncode == 2 and f'usage: tools/{script}' in done.stderr
