"""Writes happen completely or not at all."""

import os
import stat
import subprocess
import sys
import textwrap

import pytest
import torch
from mmengine.fileio import get_file_backend, put_text
from mmengine.runner import save_checkpoint

from mmlora.io.atomic import AtomicLocalBackend, remove_leftovers, write_atomically, write_bytes, write_text


class DiskFullError(OSError):
    """Stands for whatever stops a write halfway."""


def _fail_halfway(file):
    file.write(b'half of the new')
    file.flush()
    raise DiskFullError


def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / 'weights.pth'
    path.write_bytes(b'old')
    with pytest.raises(DiskFullError):
        write_atomically(path, _fail_halfway)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['weights.pth']


def test_a_first_write_that_fails_creates_no_file(tmp_path):
    with pytest.raises(DiskFullError):
        write_atomically(tmp_path / 'weights.pth', _fail_halfway)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_is_not_swallowed(tmp_path):
    def interrupted(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / 'a', interrupted)
    assert os.listdir(tmp_path) == []


def test_a_failing_rename_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / 'a'
    path.write_bytes(b'old')

    def refuse(source, target):
        raise PermissionError('no rename today')

    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(PermissionError):
        write_bytes(path, b'new')
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a']


@pytest.mark.skipif(os.name == 'nt', reason='signals of POSIX')
def test_a_killed_process_leaves_the_old_content(tmp_path):
    path = tmp_path / 'weights.pth'
    path.write_bytes(b'old')
    code = textwrap.dedent(f'''
        import os, signal
        from mmlora.io.atomic import write_atomically
        def write(file):
            file.write(b'x' * 100000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        write_atomically({str(path)!r}, write)
    ''')
    process = subprocess.run([sys.executable, '-c', code], check=False)
    assert process.returncode == -9
    assert path.read_bytes() == b'old'


def test_content_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        steps.append('folder' if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 'file')
        fsync(descriptor)

    def note_replace(source, target):
        steps.append('replace')
        assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, 'fsync', note_fsync)
    monkeypatch.setattr(os, 'replace', note_replace)
    write_bytes(tmp_path / 'a', b'new')
    assert steps == (['file', 'replace'] if os.name == 'nt' else ['file', 'replace', 'folder'])


@pytest.mark.skipif(os.name == 'nt', reason='modes of POSIX')
def test_the_mode_follows_the_umask_and_then_the_old_file(tmp_path):
    path = tmp_path / 'a'
    umask = os.umask(0o027)
    try:
        write_bytes(path, b'1')
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_bytes(path, b'2')
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / 'store').mkdir()
    real, link = tmp_path / 'store' / 'real', tmp_path / 'link'
    real.write_bytes(b'old')
    link.symlink_to(real)
    assert write_bytes(link, b'new') == real.resolve()
    assert link.is_symlink() and real.read_bytes() == b'new'


def test_folders_are_made_and_a_folder_is_refused(tmp_path):
    write_text(tmp_path / 'a' / 'b' / 'c.txt', 'é\n')
    assert (tmp_path / 'a' / 'b' / 'c.txt').read_bytes() == b'\xc3\xa9\n'
    with pytest.raises(IsADirectoryError, match='is a folder'):
        write_bytes(tmp_path / 'a', b'')


def test_the_longest_name_that_a_file_system_takes(tmp_path):
    path = tmp_path / ('é' * 127)
    write_bytes(path, b'new')
    assert path.read_bytes() == b'new'


def test_the_backend_is_known_to_mmengine_by_name(tmp_path, monkeypatch):
    args = dict(backend='mmlora_atomic')
    assert type(get_file_backend('x', backend_args=args)) is AtomicLocalBackend
    put_text('text', tmp_path / 'a.txt', backend_args=args)
    assert (tmp_path / 'a.txt').read_text() == 'text'

    path = tmp_path / 'work' / 'epoch_1.pth'
    save_checkpoint(dict(state_dict=dict(w=torch.arange(3))), str(path), backend_args=args)
    before = path.read_bytes()
    assert torch.load(path, weights_only=True)['state_dict']['w'].tolist() == [0, 1, 2]

    def refuse(descriptor):
        raise DiskFullError

    monkeypatch.setattr(os, 'fsync', refuse)
    with pytest.raises(DiskFullError):
        save_checkpoint(dict(state_dict={}), str(path), backend_args=args)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ['epoch_1.pth']


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    left = [f'.{name}.{"0" * 32}.tmp' for name in ('epoch_1.pth', 'results.json', 'ä b')]
    others = ['epoch_1.pth', '.hidden', 'x.tmp', f'.{"0" * 32}.tmp', f'.x.{"g" * 32}.tmp', f'x.{"0" * 32}.tmp']
    (tmp_path / 'inside').mkdir()
    for name in [*left, *others, f'inside/{left[0]}']:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, ['epoch_*.pth', 'ä b'])
    assert {path.name for path in tmp_path.iterdir()} == {*others, left[1], 'inside'}
    assert (tmp_path / 'inside' / left[0]).exists()
