"""The live line: what a terminal shows in the end, and that nothing else changes."""

import io
import logging
import os
import re
import subprocess
import sys
import threading

import pytest
import torch
from tiny import ROOT, data_options, make_images, tiny_config, tool_env, train

from mmlora import progress
from mmlora.progress import ProgressLine, format_seconds, note, open_line, progress_line, tidy_terminal, tracked

SHOW, HIDE, CLEAR = '\x1b[?25h', '\x1b[?25l', '\r\x1b[2K'


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = 'utf-8'

    def isatty(self):
        return True


def screen(text):
    """Return the lines that a terminal shows in the end: what it does with returns, erased lines and colours."""
    rows = ['']
    for part in re.findall(r'\x1b\[[?\d;]*[A-Za-z]|\r\n|\n|\r|[^\x1b\r\n]+', text):
        if part in ('\n', '\r\n'):
            rows.append('')
        elif part == '\x1b[2K':
            rows[-1] = ''
        elif part == '\r':
            start = True
            continue
        elif not part.startswith('\x1b'):
            assert rows[-1] == '' or not locals().get('start'), f'{part!r} is written over {rows[-1]!r}'
            rows[-1] += part
        start = False
    return rows


@pytest.fixture
def make_terminal(monkeypatch):
    """A function that makes a terminal of stdout and stderr; pytest exchanges them between a fixture and its test."""
    def make():
        stream = Terminal()
        for name in ('stdout', 'stderr'):
            monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(progress, 'INTERVAL', 0.0)
        for name, value in dict(TERM='xterm', COLUMNS='120', CI='', RANK='0', MMLORA_PROGRESS='').items():
            monkeypatch.setenv(name, value)
        return stream

    return make


def test_the_line_and_the_log_share_a_terminal(make_terminal):
    terminal = make_terminal()
    logger = logging.Logger('one that no manager knows, as those of mmengine')
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.info('before')
    with progress_line('train', 20, 10) as line:
        line.update(15, loss=0.25, lr=1e-3, nothing=None)
        row = screen(terminal.getvalue())[-1]
        assert re.fullmatch(r'train 15/20 ━{16} loss 0.25 · lr 0.001 · 00:00 left · .+[MG]B(, GPU .*)?', row), row
        logger.info('a \x1b[31mred\x1b[0m line ' + 'x' * 300)
        print('half', end=' ')
        print('a line')
        assert screen(terminal.getvalue())[-1] == row
        with progress_line('val', 4) as inner:
            inner.update(1, accuracy_top1=99.5)
            row = screen(terminal.getvalue())[-1]
            assert row.startswith('train 15/20 › val 1/4 ') and 'accuracy top1 99.5' in row and len(row) < 120
            assert 'loss 0.25' in row  # what is known of the outer job stays
        note(accuracy=88.0)
        assert 'accuracy 88 ' in screen(terminal.getvalue())[-1]
        print('no newline', end='')
    logger.info('after')
    shown = screen(terminal.getvalue())
    assert shown == ['before', 'a red line ' + 'x' * 300, 'half a line', 'no newlineafter', '']
    assert terminal.getvalue().count(HIDE) == terminal.getvalue().count(SHOW) == 1
    assert sys.stdout is sys.stderr is terminal and logger.handlers[0].stream is terminal


def test_a_line_that_is_flushed_before_its_end_shows(make_terminal):
    terminal = make_terminal()
    with progress_line('train', 3) as line:
        line.update(1)
        print('loading ...', end='', flush=True)
        assert screen(terminal.getvalue()) == ['loading ...']
        line.update(2)
        print(' half', end='', flush=True)
        assert screen(terminal.getvalue()) == ['loading ... half']  # The live line does not draw over it.
        print(' done')
        shown = screen(terminal.getvalue())
        assert shown[0] == 'loading ... half done' and shown[1].startswith('train 2/3')
        for bar in ('\r50%', '\r99%', '50%\r'):
            print(bar, end='', flush=True)
            line.update(2)
            assert terminal.getvalue().endswith(bar)
        print('\r   \r', end='', flush=True)  # as tqdm takes a bar away
        assert 'train 2/3' in terminal.getvalue().rpartition('\r   \r')[2]
        print('question? ', end='', flush=True)
    assert terminal.getvalue().endswith('question? ' + SHOW)


def test_an_error_leaves_the_terminal_clean(make_terminal):
    terminal = make_terminal()
    with pytest.raises(KeyboardInterrupt), tidy_terminal():
        open_line(ProgressLine('train', 3))
        for _ in tracked([1, 2], 'task'):
            raise KeyboardInterrupt
    assert screen(terminal.getvalue()) == [''] and terminal.getvalue().endswith(SHOW) and sys.stdout is terminal


def test_a_forked_worker_writes_as_without_the_line(make_terminal):
    terminal = make_terminal()
    with progress_line('train', 3):
        before = terminal.getvalue()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                print('from the worker')
                os.write(writing, terminal.getvalue()[len(before):].encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        assert os.read(reading, 1000) == b'from the worker\n'


def test_a_ticking_line_ends_its_thread(make_terminal):
    make_terminal()
    before = threading.active_count()
    with progress_line('run', 2, ticking=True):
        assert threading.active_count() == before + 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.daemon and thread._target is progress._tick:
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize('change', [
    dict(MMLORA_PROGRESS='0'), dict(CI='true'), dict(TERM='dumb'), dict(RANK='1'), dict(pipe=True),
], ids=lambda change: next(iter(change)))
def test_nothing_is_drawn_where_nobody_looks(make_terminal, monkeypatch, change):
    terminal = make_terminal()
    for name, value in change.items():
        if name == 'pipe':
            monkeypatch.setattr(sys, 'stderr', io.StringIO())
        else:
            monkeypatch.setenv(name, value)
    with progress_line('train', 2) as line:
        line.update(1, loss=1.0)
        assert not line.due
    assert terminal.getvalue() == ''


def test_a_narrow_terminal_without_utf8_cuts_the_line(make_terminal, monkeypatch):
    terminal = make_terminal()
    monkeypatch.setenv('COLUMNS', '30')
    terminal.encoding = 'ascii'
    with progress_line('train', 20) as line:
        line.update(1, loss=0.25, accuracy=88.0, learning_rate=0.001)
        row = screen(terminal.getvalue())[-1]
    assert row == 'train 1/20 loss 0.25 | accurac' [:29]


def test_time_left_counts_what_this_process_did(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    line = ProgressLine('train', 100, done=50)
    now[0] = 10.0
    assert line.seconds_left() is None
    assert line.seconds_left(0.5) == pytest.approx(10 / 0.5 * 49.5)  # an inner job is half done
    line.advance(60)
    assert line.seconds_left() == pytest.approx(40)
    now[0] = 13.0
    assert line.seconds_left() == pytest.approx(37)  # it counts down while a step lasts
    now[0] = 1000.0
    assert line.seconds_left() == 0
    assert [format_seconds(s) for s in (59.6, 3723)] == ['01:00', '1:02:03']


def test_a_run_is_the_same_with_and_without_the_line(tmp_path, make_terminal):
    terminal = make_terminal()
    images, weights = make_images(tmp_path / 'images'), []
    for name, wanted in (('shown', True), ('hidden', False)):
        start = len(terminal.getvalue())
        options = dict(progress=wanted, train_cfg__max_epochs=2, default_hooks__checkpoint__save_optimizer=True)
        runner = train(tiny_config(images, tmp_path / name, **options))
        drawn = terminal.getvalue()[start:]
        assert (CLEAR in drawn) is wanted
        weights.append(runner.model.state_dict())
        log = next((tmp_path / name).glob('*/*.log')).read_text()
        assert '\x1b' not in log and 'Epoch(val) [2][5/5]' in log
        if wanted:
            for text in ('train 1/10', 'epoch 2/2', 'loss 0.', 'lr 0.', 'accuracy/top1 ', 'left', 'B', 'val 5/5'):
                assert text in drawn, text
            assert any('Epoch(val) [2][5/5]' in row for row in screen(drawn)) and screen(drawn)[-1] == ''
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no pseudo terminals')
def test_the_tool_on_a_pseudo_terminal_and_in_a_pipe(tmp_path):
    pty = pytest.importorskip('pty')
    images = make_images(tmp_path / 'images', 4)
    options = [f'{key}={value}' for key, value in data_options(images).items()] + ['train_cfg.max_epochs=1']
    words = [sys.executable, 'tools/train.py', 'tests/data/configs/tiny_vit.py', '--cfg-options', *options]
    ours, theirs = pty.openpty()
    env = tool_env(TERM='xterm', COLUMNS='140', CI='', MMLORA_PROGRESS='')
    with subprocess.Popen([*words, '--work-dir', str(tmp_path / 'run')], cwd=ROOT, env=env, stdin=theirs,
                          stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        log = process.stdout.read().decode()
    drawn = b''
    try:
        while block := os.read(ours, 65536):
            drawn += block
    except OSError:  # The other side is closed: the end on Linux.
        pass
    os.close(ours)
    assert process.returncode == 0, log + drawn.decode()
    assert 'Epoch(val) [1][2/2]' in log and not re.search(r'\x1b\[\?|\x1b\[2K|\r', log)
    assert CLEAR in drawn.decode() and re.search(r'train \d/2', drawn.decode()) and screen(drawn.decode())[-1] == ''
