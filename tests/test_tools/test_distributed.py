"""Two processes on CPUs: they train as one, test as one, and resume."""

import json
import multiprocessing
import os
import random
import shutil
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from mmengine.model import is_model_wrapper
from mmengine.registry import MODEL_WRAPPERS

from mmlora.apis import prepare_train_cfg
from mmlora.apis.distributed import start_processes
from mmlora.apis.hold_run import LOCK
from mmlora.apis.sweep_lock import lock_folder

LORA = ['model.backbone.type=VitSR_LoRA', 'model.backbone.lora_ranks=2']
PROBED = tiny.CONFIG.with_name('tiny_vit_probed.py')


def words(images: Path, *more: str) -> list[str]:
    pairs = tiny.data_options(images)
    return ['--cfg-options', *(f'{key}={value}' for key, value in pairs.items()), *LORA, *more]


def free_port() -> str:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


def launch(script: str, *args: object) -> str:
    done = tiny.run_tool('bash', f'tools/{script}', *args, PORT=free_port())
    return done.stdout + done.stderr


def _process(rank: int, port: str, log: Path, words: tuple[object, ...]) -> None:
    with log.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # Copies would draw the same by themselves.
        seed(rank)
    tiny.call_tool('train', *words, '--launcher', 'pytorch')


def train_in_copies(folder: Path, *words: object) -> None:
    """Train as two processes of ``dist_train.sh`` do, in copies of this process, which saves their imports."""
    context, port = multiprocessing.get_context('fork'), free_port()
    logs = [folder / f'process{rank}.txt' for rank in (0, 1)]
    copies = [context.Process(target=_process, args=(rank, port, log, words)) for rank, log in enumerate(logs)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join(timeout=240)
    failed = [log.read_text()[-5000:] for copy, log in zip(copies, logs, strict=True) if copy.exitcode != 0]
    for copy in copies:
        copy.kill()
    assert not failed, '\n'.join(failed)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, images):
    """A run of two processes, interrupted nowhere, with checkpoints within epochs."""
    folder = tmp_path_factory.mktemp('two')
    launch('dist_train.sh', PROBED, 2, '--work-dir', folder, *words(
        images, 'default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=2',
        'model.backbone.lora_dropout=0.2', 'train_dataloader.num_workers=1',
    ))
    return folder


@pytest.fixture
def single_process():
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{free_port()}', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_both_processes_hold_equal_weights(trained):
    first, second = (torch.load(trained / f'rank{rank}.pth', weights_only=True) for rank in (0, 1))
    assert first['samples'] != second['samples'] and len(first['samples']) == len(second['samples'])
    assert first['noise'] != second['noise']  # Dropout differs between processes,
    assert not tiny.differing(first['state_dict'], second['state_dict'])  # gradients are shared.
    [last] = {Path((trained / 'last_checkpoint').read_text()).name}
    assert last == 'iter_9.pth'  # 36 images, two processes, batches of 8: 3 iterations an epoch
    assert not tiny.differing(tiny.load(trained / last)['state_dict'], first['state_dict'])


@pytest.mark.slow
def test_two_processes_resume_in_the_middle_of_an_epoch(tmp_path, images, trained):
    shutil.copy(trained / 'iter_4.pth', tmp_path)
    train_in_copies(tmp_path, trained / PROBED.name, '--work-dir', tmp_path, '--resume', tmp_path / 'iter_4.pth')
    assert not tiny.differing_runs(trained / 'iter_9.pth', tmp_path / 'iter_9.pth')


def test_two_processes_are_refused_as_one_where_another_run_is(tmp_path, images, capfd):
    with lock_folder(tmp_path / 'run', LOCK), pytest.raises(AssertionError):
        train_in_copies(tmp_path, PROBED, '--work-dir', tmp_path / 'run', *words(images))
    assert capfd.readouterr().err.count(f'RuntimeError: {tmp_path}/run is in use by process {os.getpid()} on') == 2
    assert {path.name for path in (tmp_path / 'run').iterdir()} == {LOCK}


@pytest.mark.slow
def test_two_processes_test_as_one(tmp_path, images, trained):
    call = [trained / PROBED.name, trained / 'iter_9.pth', '--work-dir', tmp_path, '--out-item', 'metrics', '--out']
    tiny.call_tool('test', *call, tmp_path / 'one.json')
    launch('dist_test.sh', *call[:2], 2, *call[2:], tmp_path / 'two.json')
    one, two = (json.loads((tmp_path / f'{name}.json').read_text()) for name in ('one', 'two'))
    assert one == two and 'accuracy/top1' in one


def test_a_model_of_which_nothing_learns_is_not_wrapped(single_process):
    frozen, learning = torch.nn.Linear(2, 2).requires_grad_(False), torch.nn.Linear(2, 2)
    build = partial(MODEL_WRAPPERS.build, dict(type='mmlora.LearningDataParallel', device_ids=None))
    assert build(default_args=dict(module=frozen)) is frozen
    wrapped = build(default_args=dict(module=learning))
    assert is_model_wrapper(wrapped) and wrapped.module is learning and not is_model_wrapper(frozen)


@pytest.mark.skipif(torch.cuda.is_available(), reason='CPU processes')
def test_processes_that_no_launcher_started_are_refused(tmp_path, images, monkeypatch):
    cfg = tiny.tiny_config(images, tmp_path)
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match='RANK, WORLD_SIZE.*torchrun'):
        start_processes(prepare_train_cfg(cfg, launcher='pytorch'))
    with pytest.raises(ValueError, match='needs CUDA'):
        start_processes(prepare_train_cfg(cfg, launcher='slurm'))
    with pytest.raises(ValueError, match="'ssh'"):
        start_processes(prepare_train_cfg(cfg, launcher='ssh'))


@pytest.mark.skipif(torch.cuda.is_available(), reason='CPU processes')
def test_the_model_is_wrapped_for_cpus_only_where_there_are_several(tmp_path, images):
    cfg = tiny.tiny_config(images, tmp_path)
    assert 'model_wrapper_cfg' not in prepare_train_cfg(cfg)
    wrapper = prepare_train_cfg(cfg, launcher='pytorch').model_wrapper_cfg
    assert wrapper.type == 'mmlora.LearningDataParallel' and wrapper.device_ids is None
