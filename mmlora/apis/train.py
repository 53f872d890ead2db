"""Training from a config: what ``tools/train.py`` calls."""

import copy
import re
from pathlib import Path
from uuid import uuid4

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..engine.hooks import ProgressHook
from ..progress import tidy_terminal
from .distributed import start_processes, wrap_for_processes
from .hold_run import hold_run
from .labels import check_labels
from .learning import announce_learning, warn_of_earlier_run, warn_of_random_weights
from .prepare import add_hook, replace_type, set_loader_options, set_work_dir, stock_name
from .resuming import settle_resume, settle_seed
from .settle import settle_ranks
from .settle_classes import settle_classes
from .settle_generator import settle_generator
from .settle_images import settle_images
from .unknown_types import check_optimizer, explain_unknown_types
from .unused_variables import warn_of_mistyped_variables
from .variables import settle_variables
from .vis_backends import check_vis_backends

SAMPLERS = {
    'DefaultSampler': 'mmlora.ResumableSampler',
    'InfiniteSampler': 'mmlora.ResumableInfiniteSampler',
    'RepeatAugSampler': 'mmlora.ResumableRepeatAugSampler',
}
LOOPS = {'EpochBasedTrainLoop': 'mmlora.EpochTrainLoop', 'IterBasedTrainLoop': 'mmlora.IterTrainLoop'}
HOOKS = {'CheckpointHook': 'mmlora.CheckpointHook'}


@tidy_terminal()
def train(
    cfg: Config,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    validate: bool = True,
    auto_scale_lr: bool = False,
    pin_memory: bool = True,
    persistent_workers: bool = True,
    launcher: str | None = None,
) -> Runner:
    """Train what a config describes.

    Args:
        cfg: The config; it is not changed, ``runner.cfg`` holds what it became.
        work_dir: Folder of the results. By default the config's, else by its ``run_folder``, else
            ``work_dirs/<name of the config file>``, with a folder for each setting of its variables.
        resume: ``'auto'`` goes on from the newest checkpoint in the work directory, a path from that one, and
            ``'previous'`` from the newest good one where the newest is damaged or gone.
        amp: Mixed precision: float16 with loss scaling on CUDA, bfloat16 on a CPU.
        validate: False leaves validation out.
        auto_scale_lr: Scale the learning rate by the real batch size over ``cfg.auto_scale_lr.base_batch_size``.
        pin_memory: False turns it off; it is never on without CUDA.
        persistent_workers: False turns it off; it is never on without worker processes.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``; by default the config's.

    Returns:
        The runner, with the trained model.

    Raises:
        ValueError: The config or the checkpoint cannot be used; the message says why and what to do.
        FileNotFoundError: A file that the config or an argument names does not exist.
        RuntimeError: Another run is at the work directory.
        OSError: The work directory cannot be written, or its disk is full.
    """
    cfg = prepare_train_cfg(
        cfg,
        work_dir=work_dir,
        amp=amp,
        validate=validate,
        auto_scale_lr=auto_scale_lr,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
        launcher=launcher,
    )
    start_processes(cfg)
    with hold_run(cfg.work_dir, checkpoints=(cfg.default_hooks.get('checkpoint') or {}).get('out_dir')):
        return _train(cfg, resume)


def _train(cfg: Config, resume: str | None) -> Runner:
    settle_seed(cfg, settle_resume(cfg, resume))
    with explain_unknown_types():
        settle_ranks(cfg, checkpoint=cfg.get('load_from'))
        settle_classes(cfg)
        settle_images(cfg)
        settle_generator(cfg)
        check_optimizer(cfg)
        runner = build_runner(cfg)
        check_labels(runner, 'train', 'val')
        announce_learning(runner)
        warn_of_random_weights(runner)
        warn_of_earlier_run(runner)
        runner.train()
    stop_workers(runner)
    return runner


def prepare_train_cfg(
    cfg: Config,
    *,
    work_dir: str | None = None,
    amp: bool = False,
    validate: bool = True,
    auto_scale_lr: bool = False,
    pin_memory: bool = True,
    persistent_workers: bool = True,
    launcher: str | None = None,
) -> Config:
    """Return the config with which a run trains; see :func:`train` for the arguments.

    mmengine's checkpoint hook, loops and samplers become ours, the training data is seeded by sample, and hooks for the
    seed of each step, the start of training, the protocol, strict loading and compilation are added. Preparing twice is
    the same as once.

    Raises:
        ValueError: An option does not fit the config.
    """
    cfg = copy.deepcopy(cfg)
    if not cfg.get('train_dataloader') or not cfg.get('train_cfg') or not cfg.get('optim_wrapper'):
        raise ValueError('training needs train_dataloader, train_cfg and optim_wrapper in the config')
    cfg.setdefault('default_scope', 'mmpretrain')
    cfg.launcher = launcher or cfg.get('launcher') or 'none'
    warn_of_mistyped_variables(cfg)
    set_work_dir(cfg, work_dir, settle_variables(cfg))
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if auto_scale_lr:
        _enable_auto_scale_lr(cfg)
    _set_precision(cfg, amp)
    set_loader_options(cfg, pin_memory, persistent_workers)
    _set_loop(cfg)
    _set_data(cfg)
    _set_hooks(cfg)
    wrap_for_processes(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a prepared config; ``runner_type`` chooses a class other than mmengine's.

    It shows its progress on a terminal, unless the config says ``progress = False``.

    Raises:
        ImportError: The config asks for TensorBoard, which is not installed.
    """
    check_vis_backends(cfg)
    # mmengine names a run by the second it began in, and two runs of one name share their log and message hub. The name
    # in a dumped config has such an ending of an earlier run.
    name = re.sub(r'-[0-9a-f]{8}$', '', cfg.get('experiment_name') or Path(cfg.work_dir).name)
    cfg.experiment_name = f'{name}-{uuid4().hex[:8]}'
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if cfg.get('progress', True) and not any(isinstance(hook, ProgressHook) for hook in runner.hooks):
        runner.register_hook(ProgressHook())
    return runner


def stop_workers(runner: Runner) -> None:
    """Stop the data workers of a runner that has finished.

    Persistent workers live as long as their loader. When Python's collector of reference cycles finds the runner later,
    the queues are gone before the workers are told to stop, and each worker is waited for 5 seconds in vain.

    Args:
        runner: The runner; its loops can be run again and then start new workers.
    """
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        loader = getattr(loop, 'dataloader', None)
        if isinstance(loader, DataLoader):
            if hasattr(loop, 'dataloader_iterator'):
                loop.dataloader_iterator = None
            loader._iterator = None


def _enable_auto_scale_lr(cfg: Config) -> None:
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise ValueError('scaling the learning rate needs auto_scale_lr=dict(base_batch_size=...) in the config: the '
                         'total batch size for which lr was chosen')
    cfg.auto_scale_lr.enable = True


def _set_precision(cfg: Config, amp: bool) -> None:
    wrapper = cfg.optim_wrapper
    name = stock_name(wrapper) if wrapper.get('type') else 'OptimWrapper'
    if amp and name not in ('OptimWrapper', 'AmpOptimWrapper', 'BF16OptimWrapper'):
        raise ValueError(f'mixed precision replaces OptimWrapper, but the config has {wrapper.get("type")!r}: set its '
                         'precision in the config')
    if torch.cuda.is_available():
        if amp and name != 'BF16OptimWrapper':
            wrapper.type = 'AmpOptimWrapper'
            wrapper.setdefault('loss_scale', 'dynamic')
    elif amp or name == 'AmpOptimWrapper':
        if name == 'AmpOptimWrapper':
            print_log('AmpOptimWrapper needs a GPU; here the run uses bfloat16 without loss scaling.', logger='current')
        for option in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(option, None)
        wrapper.type = 'mmlora.BF16OptimWrapper'


def _set_loop(cfg: Config) -> None:
    if 'type' in cfg.train_cfg:
        replace_type(cfg.train_cfg, LOOPS)
    elif 'by_epoch' in cfg.train_cfg:
        by_epoch = cfg.train_cfg.pop('by_epoch')
        cfg.train_cfg.type = LOOPS['EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop']


def _set_data(cfg: Config) -> None:
    loader = cfg.train_dataloader
    if not isinstance(loader, dict):
        return
    replace_type(loader.get('sampler'), SAMPLERS)
    if isinstance(loader.get('dataset'), dict) and stock_name(loader.dataset) != 'SeededDataset':
        loader.dataset = dict(type='mmlora.SeededDataset', dataset=loader.dataset)


def _set_hooks(cfg: Config) -> None:
    default = cfg.setdefault('default_hooks', {}) or {}
    default.setdefault('checkpoint', dict(type='CheckpointHook'))
    for hook in [*default.values(), *(cfg.get('custom_hooks') or [])]:
        replace_type(hook, HOOKS)
    cfg.default_hooks = default
    add_hook(cfg, 'StepSeedHook')
    add_hook(cfg, 'StartTrainingHook')
    add_hook(cfg, 'ProtocolHook')
    strict = add_hook(cfg, 'StrictLoadHook', fine_tune=True)
    if isinstance(strict, dict):
        strict.setdefault('fine_tune', True)
    if (cfg.optim_wrapper.get('accumulative_counts') or 1) > 1:
        add_hook(cfg, 'AccumulationHook')
    options = cfg.pop('compile', None)
    if options:
        add_hook(cfg, 'CompileHook', **(options if isinstance(options, dict) else {}))
