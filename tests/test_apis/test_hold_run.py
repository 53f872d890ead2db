"""The folder of a run: one process at a time, writable, of any name, and on a disk that may be full."""

import errno
import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import tiny
from tiny import images, quick, whole_run  # noqa: F401

from mmlora.apis import hold_run as module
from mmlora.apis import sweep_lock, train
from mmlora.apis import test as run_test
from mmlora.apis.hold_run import LOCK, check_writable, explain_full_disk, hold_run
from mmlora.apis.sweep_lock import lock_folder

posix = pytest.mark.skipif(os.name == 'nt', reason='locks of POSIX')


@posix
def test_the_second_process_is_refused_and_the_first_one_named(tmp_path, images):  # noqa: F811
    cfg = tiny.tiny_config(images, tmp_path)
    with lock_folder(tmp_path, LOCK):
        holder = rf'{tmp_path} is in use by process {os.getpid()} on .*--work-dir'
        for resume in (None, 'auto'):
            with pytest.raises(RuntimeError, match=holder):
                train(cfg, resume=resume)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}
    cfg.train_cfg.max_epochs = 1
    train(cfg)  # One after the other is no matter, in one process neither,
    train(cfg)
    cfg.model.head.num_classes = 2
    with pytest.raises(ValueError, match='has the label 2, but the head has num_classes=2'):
        train(cfg)  # and a run that fails lets go.
    with lock_folder(tmp_path, LOCK):
        pass


@posix
def test_a_worker_that_outlives_a_killed_run_does_not_hold_its_folder(tmp_path):
    ready, waiting = tmp_path / 'ready', tmp_path / 'worker'
    child = os.fork()
    if not child:
        try:
            with lock_folder(tmp_path, LOCK):
                if not os.fork():  # As a data worker that is busy with something long.
                    waiting.write_text(str(os.getpid()))
                    waiting.rename(ready)
                    time.sleep(60)
                    os._exit(0)
                time.sleep(60)
        finally:
            os._exit(1)
    try:
        end = time.monotonic() + 30
        while not ready.exists() and time.monotonic() < end:
            time.sleep(0.01)
        worker = int(ready.read_text())
        with pytest.raises(RuntimeError, match=f'process {child} '), lock_folder(tmp_path, LOCK):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.kill(worker, 0)  # It is there,
    with lock_folder(tmp_path, LOCK):  # and in nobody's way.
        os.kill(worker, signal.SIGKILL)


@posix
def test_a_copy_of_a_process_does_not_close_what_is_not_its_own(tmp_path):
    with lock_folder(tmp_path, LOCK):
        child = os.fork()
        if not child:
            held = bool(sweep_lock._held)
            os._exit(held)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(RuntimeError, match='in use'), lock_folder(tmp_path, LOCK):
            pass


@posix
@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_where_the_file_system_has_no_locks_a_training_warns_and_a_sweep_refuses(tmp_path, monkeypatch, number):
    def no_lock(*args):
        raise OSError(number, os.strerror(number))

    said = []
    monkeypatch.setattr('fcntl.flock', no_lock)
    monkeypatch.setattr(sweep_lock, 'print_log', lambda text, **options: said.append(text))
    with hold_run(tmp_path):
        assert len(said) == 1 and f'{tmp_path} has no locks' in said[0]
    with pytest.raises(OSError) as caught, lock_folder(tmp_path, LOCK):
        pass
    assert caught.value.errno == number


@posix
def test_the_lock_of_another_user_is_taken_and_left_as_it_is(tmp_path, monkeypatch):
    real = os.open

    def of_another(path, flags, *mode):
        if os.fspath(path).endswith(LOCK) and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, flags, *mode)

    (tmp_path / LOCK).write_text('process 1 on there')
    with lock_folder(tmp_path / 'free', LOCK):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(os, 'open', of_another)
        with hold_run(tmp_path), pytest.raises(RuntimeError, match='in use by process 1 on there'):
            with lock_folder(tmp_path, LOCK):
                pass
    assert (tmp_path / LOCK).read_text() == 'process 1 on there'


@pytest.mark.parametrize('number', [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_cannot_be_written_is_found_before_the_training(tmp_path, images, monkeypatch, number):  # noqa: F811
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, 'write_bytes', refuse)
    monkeypatch.setattr(module, 'lock_folder', lambda *args, **kwargs: pytest.fail('too late'))
    with pytest.raises(PermissionError, match=rf'{tmp_path} cannot be written \({os.strerror(number)}\): .*--work-dir'):
        train(tiny.tiny_config(images, tmp_path))
    assert not list(tmp_path.iterdir())


@contextmanager
def mounted(folder, options):
    """Mount a small disk at a folder; where the user may not, the test is skipped."""
    command = ['mount', '-t', 'tmpfs', '-o', options, 'none', str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f'no disk can be mounted: {done.stderr.strip()}')
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


@posix
def test_a_folder_without_the_right_to_write(tmp_path):
    with ExitStack() as stack:
        if os.getuid():
            tmp_path.chmod(0o500)
        else:  # who may write anywhere but on a disk that is read only
            stack.enter_context(mounted(tmp_path, 'ro'))
        with pytest.raises(PermissionError, match='cannot be written'), hold_run(tmp_path / 'run'):
            pass


def test_a_folder_below_a_file_and_a_file_in_its_place(tmp_path, images):  # noqa: F811
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        with pytest.raises(ValueError, match='something else than a folder'):
            check_writable(folder)
    cfg = tiny.tiny_config(images, tmp_path / 'run', default_hooks__checkpoint__out_dir=str(tmp_path / 'file'))
    with pytest.raises(ValueError, match='file is, or lies below, something else than a folder'):
        train(cfg)
    with hold_run(tmp_path / 'run', checkpoints='s3://bucket/runs'):
        pass


NAMES = {
    'letters and signs': 'C:/Übung ñ 日本語 إختبار 🙂 a b\'c"d{e}%s$HOME#;&(1)[*]?\nline',
    'long': '/'.join([*['long' * 60] * 13, 'ä' * 127 + 'x']),  # 3389 bytes, the last part 255
}


@pytest.mark.parametrize('name', NAMES)
@posix
def test_folders_of_any_name(tmp_path, images, whole_run, name):  # noqa: F811
    folder, data = tmp_path / NAMES[name], tmp_path / 'données 数据'
    data.symlink_to(images)
    cfg = tiny.tiny_config(data, folder)
    train(cfg)
    (folder / 'epoch_3.pth').unlink()
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'), encoding='utf-8')
    assert train(cfg, resume='auto').cfg.load_from == str(folder / 'epoch_2.pth')
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', folder / 'epoch_3.pth')
    assert run_test(cfg, str(folder / 'epoch_3.pth')) and (folder / 'results.json').is_file()


@pytest.mark.parametrize('name', ['ä' * 128, '/'.join(['x' * 250] * 16)], ids=['part', 'path'])
@posix
def test_names_that_are_too_long(tmp_path, images, name):  # noqa: F811
    with pytest.raises(ValueError, match=r'is too long: .* has \d+ bytes and its longest part 25\d.*--work-dir'):
        train(tiny.tiny_config(images, tmp_path / name))


class Full:
    """A file on a disk that has space for half of what is written.

    Args:
        file: The file.
    """

    def __init__(self, file):
        self.file = file

    def write(self, data):
        self.file.write(bytes(data)[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def check_full(folder, call):
    words = rf'No space left.*{folder} has [\d,]+ bytes free.*--resume goes on from .*epoch_1.pth'
    with pytest.raises(OSError, match=words) as caught:
        call()
    assert caught.value.errno == errno.ENOSPC
    assert not [path for path in folder.iterdir() if path.name.endswith('.tmp')]
    assert tiny.load(folder / 'epoch_1.pth') and (folder / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    return str(caught.value)


@posix
@pytest.mark.parametrize('what', ['epoch_2.pth', 'last_checkpoint'])
def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_space(tmp_path, images, whole_run, monkeypatch,  # noqa: F811
                                                                 what):
    real, after = os.fdopen, 'epoch_1.pth' if what == 'epoch_2.pth' else 'epoch_2.pth'

    def fdopen(descriptor, *args):
        file, name = real(descriptor, *args), Path(os.readlink(f'/proc/self/fd/{descriptor}')).name
        return Full(file) if what in name and (tmp_path / after).exists() else file

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fdopen', fdopen)
        said = check_full(tmp_path, lambda: train(tiny.tiny_config(images, tmp_path)))
    assert f'{tmp_path / what} cannot be written, and is as it was before' in said
    train(tiny.tiny_config(images, tmp_path), resume='auto')
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'epoch_3.pth')


@pytest.mark.parametrize('what', ['log', 'scalars'])
def test_a_full_disk_spoils_nothing_where_a_log_is_written(tmp_path, images, whole_run, monkeypatch,  # noqa: F811
                                                           what):
    def full(*args, **kwargs):
        if (tmp_path / 'epoch_1.pth').exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = 'logging.FileHandler.flush' if what == 'log' else 'mmengine.visualization.LocalVisBackend._dump'
    with monkeypatch.context() as patch:
        patch.setattr(name, full)
        patch.setattr('logging.raiseExceptions', False)  # or a trace for each line on the terminal
        if what == 'log':  # The text of the log is lost, the run is not.
            train(tiny.tiny_config(images, tmp_path))
        else:
            check_full(tmp_path, lambda: train(tiny.tiny_config(images, tmp_path)))
    train(tiny.tiny_config(images, tmp_path), resume='auto')
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'epoch_3.pth')


@posix
def test_a_small_disk_that_is_really_full(tmp_path, images, whole_run):  # noqa: F811
    size, one = 2 << 20, (whole_run / 'epoch_3.pth').stat().st_size
    with mounted(tmp_path, f'size={size}'):
        (tmp_path / 'filler').write_bytes(bytes(size - int(1.6 * one) - (64 << 10)))
        said = check_full(tmp_path / 'run', lambda: train(tiny.tiny_config(images, tmp_path / 'run')))
        assert 'epoch_2.pth cannot be written, and is as it was before' in said
        (tmp_path / 'filler').unlink()
        train(tiny.tiny_config(images, tmp_path / 'run'), resume='auto')
        assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'run' / 'epoch_3.pth')


@posix
def test_a_disk_that_is_full_from_the_beginning(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='has no space for even a small file .*quota.*--work-dir'):
        check_writable(tmp_path)


def test_what_a_kill_has_left_of_the_file_that_tries_the_folder_goes(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'unlink', lambda *args, **options: None)
        check_writable(tmp_path)
    [left] = tmp_path.iterdir()
    assert len(left.name) == 100
    (tmp_path / f'.report.html.{"0" * 32}.tmp').touch()  # Another process is at this one.
    check_writable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f'.report.html.{"0" * 32}.tmp']


def test_other_errors_stay_as_they_are(tmp_path):
    error = OSError(errno.EIO, 'x')
    with pytest.raises(OSError) as caught, explain_full_disk(tmp_path):
        raise error
    assert caught.value is error
    words = 'f.csv.*start the run again, of which nothing has been saved yet'
    with pytest.raises(OSError, match=words), explain_full_disk(tmp_path):
        raise OSError(errno.ENOSPC, 'No space left on device', 'f.csv')
