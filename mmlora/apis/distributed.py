"""Several processes: on GPUs as mmengine does it, on CPUs with gloo.

mmengine's launchers always select a CUDA device, and its runner wraps the model for one, whether anything of it learns
or not. Without CUDA the process group is therefore made here, before the runner, which uses the one that it finds; and
the wrapper is ours.
"""

import gc
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def start_processes(cfg: Config) -> None:
    """Join the process group that ``cfg.launcher`` asks for; does nothing for ``'none'`` or when there is one.

    Without CUDA, each process uses one thread unless ``OMP_NUM_THREADS`` says otherwise.

    Args:
        cfg: The config; ``launcher`` and ``env_cfg`` are read.

    Raises:
        ValueError: The launcher is unknown, or needs CUDA and there is none.
        RuntimeError: The process was not started by the launcher.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher not in LAUNCHERS:
        raise ValueError(f'launcher must be one of {", ".join(LAUNCHERS)}, got {launcher!r}')
    if launcher == 'none' or dist.is_initialized():
        return
    env = cfg.get('env_cfg') or {}
    # Before the group is made, since making it would settle how worker processes start.
    set_multi_processing(**env.get('mp_cfg', {}), distributed=True)
    options = dict(env.get('dist_cfg') or {})
    if torch.cuda.is_available():
        init_dist(launcher, **options)
        return
    if launcher != 'pytorch':
        raise ValueError(f'launcher {launcher!r} needs CUDA; on CPUs start the processes with torchrun '
                         "(tools/dist_train.sh) and launcher 'pytorch'")
    absent = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if absent:
        raise RuntimeError(f"launcher 'pytorch' needs {', '.join(absent)} in the environment: start the program with "
                           'torchrun or tools/dist_train.sh')
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(1)
    timeout = {'timeout': timedelta(seconds=options['timeout'])} if 'timeout' in options else {}
    dist.init_process_group('gloo', **timeout)


def stop_processes() -> None:
    """Leave the process group, if there is one, after all have finished their work.

    Not to be called after an error, when the other processes may never come.
    """
    if dist.is_available() and dist.is_initialized():
        # A wrapped model that is left to the interpreter's exit holds the group's threads, which then abort.
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def wrap_for_processes(cfg: Config) -> None:
    """Let the runner wrap the model for several processes, if anything of it learns; does nothing with one process.

    Args:
        cfg: The config; ``model_wrapper_cfg`` is set or, without CUDA, completed.
    """
    given = cfg.get('model_wrapper_cfg')
    if cfg.get('launcher', 'none') == 'none' or (given and torch.cuda.is_available()):
        return
    wrapper = dict(given or {})
    wrapper.setdefault('type', 'mmlora.LearningDataParallel')
    wrapper.setdefault('broadcast_buffers', False)
    wrapper.setdefault('find_unused_parameters', cfg.get('find_unused_parameters', False))
    if not torch.cuda.is_available():
        wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper
