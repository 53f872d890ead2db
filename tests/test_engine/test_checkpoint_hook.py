"""Checkpoints hold data only, are replaced in one step, and nothing is deleted before its successor is safe."""

import os
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.apis.resuming import find_resumable
from mmlora.io import atomic


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What was logged about resuming."""
    texts: list[str] = []
    monkeypatch.setattr('mmlora.apis.resuming.print_log', lambda text, **options: texts.append(text))
    return texts


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob('*.pth')}


def test_a_checkpoint_is_plain_data_and_says_how_the_model_was_adapted(tmp_path, images):
    train(tiny.tiny_config(
        images, tmp_path, train_cfg__max_epochs=1, model__backbone__type='VitSR_LoRA',
        model__backbone__lora_ranks=[[3, 2], [1, 4]],
    ))
    checkpoint = tiny.load(tmp_path / 'epoch_1.pth')  # With weights_only=True.
    about = checkpoint['meta']['mmlora']
    assert about['ranks'] == {
        'backbone.layers.0.attn.qkv': {'q': 3, 'v': 3}, 'backbone.layers.0.attn.proj': 2,
        'backbone.layers.1.attn.qkv': {'q': 1, 'v': 1}, 'backbone.layers.1.attn.proj': 4,
    }
    assert about['version']
    assert isinstance(checkpoint['message_hub']['log_scalars']['train/loss'], dict)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')


def test_only_the_newest_are_kept_and_resuming_goes_on_counting(tmp_path, images):
    options = dict(default_hooks__checkpoint__max_keep_ckpts=2)
    train(tiny.tiny_config(images, tmp_path, **options))
    assert names(tmp_path) == {'epoch_2.pth', 'epoch_3.pth'}
    train(tiny.tiny_config(images, tmp_path, **options, train_cfg__max_epochs=4), resume='auto')
    assert names(tmp_path) == {'epoch_3.pth', 'epoch_4.pth'}


class Scripted:
    """Values of a metric that fall and rise, whatever the model does."""

    def __init__(self, values):
        self.values = list(values)

    def __call__(self, *args, **kwargs):
        return {'accuracy/top1': self.values.pop(0)}


@pytest.mark.parametrize('save_best', ['auto', 'accuracy/top1', ['accuracy/top1', 'accuracy/top5']])
def test_the_best_checkpoint_is_replaced_by_a_better_one_only(tmp_path, images, monkeypatch, save_best):
    values = Scripted([50.0, 40.0, 60.0])
    monkeypatch.setattr(
        'mmengine.evaluator.Evaluator.evaluate',
        lambda *a: (lambda m: {**m, 'accuracy/top5': -m['accuracy/top1']})(values()),
    )
    runner = train(tiny.tiny_config(images, tmp_path, default_hooks__checkpoint__save_best=save_best))
    best = {name for name in names(tmp_path) if name.startswith('best_')}
    expected = {'best_accuracy_top1_epoch_3.pth'}
    if isinstance(save_best, list):
        expected.add('best_accuracy_top5_epoch_2.pth')
    assert best == expected
    last = tiny.load(tmp_path / 'epoch_3.pth')['message_hub']['runtime_info']
    assert {os.path.basename(v) for k, v in last.items() if k.startswith('best_ckpt')} == expected
    assert runner.message_hub.get_info('mmlora_validated_iter') == 15


@pytest.mark.parametrize('moment', ['first byte', 'replace', 'pointer', 'removal'])
@pytest.mark.parametrize('save_best', [None, 'auto'])
def test_a_crash_at_any_moment_leaves_a_run_that_resumes(tmp_path, images, monkeypatch, moment, save_best):
    """Training crashes while the third checkpoint is written; only the newest is kept."""
    monkeypatch.setattr('mmengine.evaluator.Evaluator.evaluate', lambda *a: {'accuracy/top1': float(runs.pop(0))})
    runs = [1, 2, 3, 4, 5]
    options = dict(default_hooks__checkpoint__max_keep_ckpts=1, default_hooks__checkpoint__save_best=save_best)
    crash = {
        'first byte': ('mmlora.io.seal.write_atomically', atomic.write_atomically, 'epoch_3'),
        'replace': ('os.replace', os.replace, 'epoch_3'),
        'pointer': ('mmlora.engine.hooks.checkpoint_hook.write_text', atomic.write_text, 'last_checkpoint'),
        'removal': ('mmengine.fileio.LocalBackend.remove', None, 'epoch_2'),
    }
    target, real, word = crash[moment]
    count = {'n': 0}

    def failing(*args, **kwargs):
        if any(word in str(arg) for arg in args if isinstance(arg, str | Path)):
            count['n'] += 1
            if word != 'last_checkpoint' or (folder / 'epoch_3.pth').exists():
                raise OSError('No space left on device')
        return os.remove(args[-1]) if real is None else real(*args, **kwargs)

    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        patch.setattr(target, failing)
        with pytest.raises(OSError, match='No space left'):
            train(tiny.tiny_config(images, folder, **options))
    pointed = Path((folder / 'last_checkpoint').read_text())
    assert pointed.name == ('epoch_3.pth' if moment == 'removal' else 'epoch_2.pth')
    info = tiny.load(pointed)['message_hub']['runtime_info']
    if save_best:
        assert Path(info['best_ckpt']).is_file()
    assert not [p for p in folder.iterdir() if p.name.endswith('.tmp')]
    assert run_test(tiny.tiny_config(images, tmp_path / 'test'), str(pointed))
    train(tiny.tiny_config(images, folder, **options), resume='auto')
    assert 'epoch_3.pth' in names(folder)


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Turn one bit of a weight, which torch does not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


@pytest.mark.parametrize('harm', [spoil, flip, Path.unlink])
def test_a_broken_newest_checkpoint_gives_way_to_the_one_before_it_only_when_asked(tmp_path, images, whole_run, said,
                                                                                   harm):
    for name in ('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'):
        shutil.copy(whole_run / name, tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    (tmp_path / 'epoch_1.pth').touch()  # When a file was written says nothing where it was copied.
    harm(tmp_path / 'epoch_3.pth')
    before = names(tmp_path)
    words = r'(?s)cannot be resumed:\n.*epoch_3.pth.*--resume previous, .* last good .*epoch_2.pth, of iteration 10'
    for options in (dict(resume='auto'), dict()):
        with pytest.raises(ValueError, match=words):
            train(tiny.tiny_config(images, tmp_path, **({} if options else dict(resume=True))), **options)
    assert names(tmp_path) == before
    path, checkpoint = find_resumable(tmp_path, previous=True)
    assert path == str(tmp_path / 'epoch_2.pth') and checkpoint['meta']['epoch'] == 2
    train(tiny.tiny_config(images, tmp_path, resume='previous') if harm is flip else tiny.tiny_config(images, tmp_path),
          resume=None if harm is flip else 'previous')
    assert any('epoch_3.pth' in text and 'goes on from the last good one' in text for text in said)
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'epoch_3.pth')


def test_previous_is_the_newest_where_that_is_good(tmp_path, whole_run, said):
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        shutil.copy(whole_run / name, tmp_path)
    assert find_resumable(tmp_path, previous=True)[0] == find_resumable(tmp_path)[0] == str(tmp_path / 'epoch_2.pth')
    assert not said


def test_a_damaged_checkpoint_is_neither_tested_nor_started_from(tmp_path, images, whole_run):
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        shutil.copy2(whole_run / name, tmp_path)
    flip(tmp_path / 'epoch_2.pth')
    words = 'epoch_2.pth is damaged: the SHA-256 .*the newest good checkpoint beside it is .*epoch_1.pth'
    for call in (lambda: run_test(tiny.tiny_config(images, tmp_path), str(tmp_path / 'epoch_2.pth')),
                 lambda: train(tiny.tiny_config(images, tmp_path / 'new', load_from=str(tmp_path / 'epoch_2.pth'))),
                 lambda: train(tiny.tiny_config(images, tmp_path), resume=str(tmp_path / 'epoch_2.pth'))):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_broken_checkpoint_that_was_asked_for_is_an_error(tmp_path, images, whole_run):
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        shutil.copy(whole_run / name, tmp_path)
    spoil(tmp_path / 'epoch_2.pth')
    before = names(tmp_path)
    with pytest.raises(ValueError, match='epoch_2.pth'):
        train(tiny.tiny_config(images, tmp_path), resume=str(tmp_path / 'epoch_2.pth'))
    with pytest.raises(FileNotFoundError, match='epoch_7.pth'):
        train(tiny.tiny_config(images, tmp_path), resume=str(tmp_path / 'epoch_7.pth'))
    assert names(tmp_path) == before


def test_where_no_checkpoint_is_good_nothing_is_overwritten(tmp_path, images, whole_run):
    for name in ('epoch_1.pth', 'last_checkpoint'):
        shutil.copy(whole_run / name, tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'gone.pth'))
    spoil(tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match='no checkpoint in .* can be resumed'):
        train(tiny.tiny_config(images, tmp_path), resume='auto')


def test_a_moved_run_resumes(tmp_path, images, whole_run):
    shutil.copy(whole_run / 'epoch_2.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text('/somewhere/else/epoch_2.pth')
    assert find_resumable(tmp_path)[0] == str(tmp_path / 'epoch_2.pth')


@pytest.fixture
def moved(tmp_path, whole_run):
    """A folder that has been moved from ``run`` to ``old``, and a new run, one epoch long, in its former place."""
    old, new = tmp_path / 'old', tmp_path / 'run'
    for folder, epochs in ((old, (1, 2)), (new, (1, 2, 3))):
        folder.mkdir()
        for epoch in epochs:
            shutil.copy(whole_run / f'epoch_{epoch}.pth', folder)
        (folder / 'last_checkpoint').write_text(str(new / f'epoch_{epochs[-1]}.pth'))
    return old


def test_a_moved_run_does_not_go_on_with_the_run_in_its_former_place(moved):
    assert find_resumable(moved)[0] == str(moved / 'epoch_2.pth')
    (moved / 'epoch_2.pth').unlink()
    with pytest.raises(ValueError, match='old/epoch_2.pth can not be found'):
        find_resumable(moved)
    assert find_resumable(moved, previous=True)[0] == str(moved / 'epoch_1.pth')


def test_checkpoints_elsewhere_are_found_there(tmp_path, moved):
    (tmp_path / 'run' / 'last_checkpoint').rename(tmp_path / 'last_checkpoint')
    shutil.rmtree(moved)
    moved.mkdir()
    (tmp_path / 'last_checkpoint').rename(moved / 'last_checkpoint')
    assert find_resumable(moved)[0] == str(tmp_path / 'run' / 'epoch_3.pth')
    spoil(tmp_path / 'run' / 'epoch_3.pth')
    with pytest.raises(ValueError, match='last good one, .*epoch_2.pth') as caught:
        find_resumable(moved)
    assert 'delete' not in str(caught.value)  # Without pointer, nobody would look there.


@pytest.mark.parametrize('content', [b'', b' \n', b'.', b'/', b'\xff\xfe', b'a\0b', b'x' * 5000, b'epoch_9.pth'])
def test_a_pointer_that_names_nothing_is_said_and_only_the_folder_is_searched(tmp_path, moved, monkeypatch, content):
    monkeypatch.chdir(tmp_path / 'run')
    (moved / 'last_checkpoint').write_bytes(content)
    named = 'epoch_9.pth' if content == b'epoch_9.pth' else 'xxxx' if content[:1] == b'x' else 'is damaged'
    with pytest.raises(ValueError, match=f'(?s){named}.*, delete .*old/last_checkpoint: '):
        find_resumable(moved)
    assert find_resumable(moved, previous=True)[0] == str(moved / 'epoch_2.pth')
    (moved / 'last_checkpoint').unlink()
    assert find_resumable(moved)[0] == str(moved / 'epoch_2.pth')


def test_without_a_pointer_a_file_that_cannot_be_read_is_passed_over(moved, said):
    (moved / 'last_checkpoint').unlink()
    (moved / 'other.pth').write_bytes(b'PK damaged')
    assert find_resumable(moved)[0] == str(moved / 'epoch_2.pth')
    assert 'other.pth' in said[0] and 'passed over' in said[0] and 'newest' not in said[0]
    for epoch in (1, 2):
        spoil(moved / f'epoch_{epoch}.pth')
    with pytest.raises(ValueError, match='no checkpoint in .* can be resumed'):
        find_resumable(moved)


def test_names_with_a_folder_are_kept_count_of_tidied_and_resumed(tmp_path, images):
    out, options = tmp_path / 'out', dict(default_hooks__checkpoint__filename_tmpl='ckpts/epoch_{:02d}.pth',
                                          default_hooks__checkpoint__max_keep_ckpts=1)
    left = ['.epoch_02.pth.', '.last_checkpoint.', '.report.html.', '.other.pth.']
    (out / 'ckpts').mkdir(parents=True)
    (out / 'epoch_01.pth').write_bytes(b'of somebody else')
    for name in left:
        (out / 'ckpts' / f'{name}{"0" * 32}.tmp').touch()
    train(tiny.tiny_config(images, out, **options, train_cfg__max_epochs=2))
    assert names(out / 'ckpts') == {'epoch_02.pth'} and names(out) == {'epoch_01.pth'}
    assert {path.name for path in (out / 'ckpts').glob('.*')} == {f'{name}{"0" * 32}.tmp' for name in left[2:]}
    out.rename(tmp_path / 'moved')
    shutil.copytree(tmp_path / 'moved', out)
    cfg = tiny.tiny_config(images, tmp_path / 'moved', **options)
    assert train(cfg, resume='auto').cfg.load_from == str(tmp_path / 'moved' / 'ckpts' / 'epoch_02.pth')
    assert names(tmp_path / 'moved' / 'ckpts') == {'epoch_03.pth'} and names(out / 'ckpts') == {'epoch_02.pth'}


@pytest.mark.parametrize('name', ['../outside.pth', '{}/outside.pth'])
def test_a_checkpoint_cannot_name_files_outside_to_be_removed(tmp_path, images, whole_run, name):
    (tmp_path / 'outside.pth').touch()
    run, checkpoint = tmp_path / 'run', tiny.load(whole_run / 'epoch_3.pth')
    checkpoint['message_hub']['runtime_info']['mmlora_outdated_checkpoints'] = [name.format(tmp_path)]
    run.mkdir()
    torch.save(checkpoint, run / 'epoch_3.pth')
    train(tiny.tiny_config(images, run), resume='auto')
    assert (tmp_path / 'outside.pth').exists()


def test_nothing_to_resume_starts_afresh_from_load_from(tmp_path, images, whole_run, said):
    cfg = tiny.tiny_config(images, tmp_path, load_from=str(whole_run / 'epoch_3.pth'), train_cfg__max_epochs=1)
    runner = train(cfg, resume='auto')
    assert runner.cfg.resume is False and runner.iter == 5
    assert any('Nothing to resume' in text for text in said)
    fresh = tiny.load(whole_run / 'epoch_1.pth')['message_hub']['log_scalars']['train/loss']['log'][0]
    tuned = tiny.load(tmp_path / 'epoch_1.pth')['message_hub']['log_scalars']['train/loss']['log'][0]
    assert tuned < fresh


def test_weights_alone_cannot_be_resumed(tmp_path, images, whole_run):
    torch.save({'state_dict': tiny.load(whole_run / 'epoch_1.pth')['state_dict']}, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='not the whole state of a training run'):
        train(tiny.tiny_config(images, tmp_path), resume=str(tmp_path / 'weights.pth'))


def test_the_best_checkpoint_is_no_state_of_a_run(tmp_path, images, whole_run):
    best = {k: v for k, v in tiny.load(whole_run / 'epoch_1.pth').items() if k != 'optimizer'}
    torch.save(best, tmp_path / 'best.pth')
    with pytest.raises(ValueError, match='it lacks optimizer'):
        train(tiny.tiny_config(images, tmp_path), resume=str(tmp_path / 'best.pth'))


def test_a_published_checkpoint_is_plain_and_named_by_its_weights(tmp_path, images):
    cfg = tiny.tiny_config(images, tmp_path, train_cfg__max_epochs=1,
                           default_hooks__checkpoint__published_keys=['meta', 'state_dict'])
    train(cfg)
    [published] = tmp_path.glob('epoch_1-*.pth')
    assert set(tiny.load(published)) == {'meta', 'state_dict'}
    assert not tiny.differing(tiny.load(published)['state_dict'], tiny.load(tmp_path / 'epoch_1.pth')['state_dict'])


@pytest.mark.parametrize('given,seed', [(None, 0), (7, 0)])
def test_the_seed_of_the_resumed_run_goes_on(tmp_path, images, whole_run, given, seed):
    cfg = tiny.tiny_config(images, tmp_path, randomness__seed=given)
    runner = train(cfg, resume=str(whole_run / 'epoch_2.pth'))
    assert runner.cfg.randomness.seed == runner.seed == runner.train_dataloader.sampler.seed == seed
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'epoch_3.pth')


def test_python_text_in_a_checkpoint_is_never_run(tmp_path, images, whole_run):
    checkpoint = tiny.load(whole_run / 'epoch_2.pth')
    trap = f"open({str(tmp_path / 'trapped')!r}, 'w')\n"
    checkpoint['meta'].update(cfg=trap, config=trap)
    checkpoint['message_hub']['runtime_info'].update(cfg=trap, config=trap)
    path = str(tmp_path / 'trap.pth')
    torch.save(checkpoint, path)
    assert run_test(tiny.tiny_config(images, tmp_path / 'test'), path)
    train(tiny.tiny_config(images, tmp_path / 'run'), resume=path)
    assert not (tmp_path / 'trapped').exists()
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'run' / 'epoch_3.pth')


def test_what_no_checkpoint_can_hold_is_an_error_that_loses_nothing(tmp_path, images, monkeypatch):
    def broken(self, runner, **kwargs):
        if runner.epoch == 1:
            runner.message_hub.update_info('odd', object())

    monkeypatch.setattr('mmlora.engine.StepSeedHook.after_train_epoch', broken)
    with pytest.raises(TypeError, match='message_hub.runtime_info.odd'):
        train(tiny.tiny_config(images, tmp_path))
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert names(tmp_path) == {'epoch_1.pth'}
