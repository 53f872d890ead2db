"""The main job: adapt ``vit-micro`` to real handwritten digits in several ways and compare them."""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .quickstart_runs import Run, choose, run_jobs, settings_of
from .settle import settle_ranks
from .trial import run_trial

METHODS = {
    'linear probe': 'linear',
    'BitFit': 'bitfit',
    'LayerNorm tuning': 'layer-norm',
    'SSF': 'ssf',
    'VPT-shallow': 'vpt-shallow',
    'VPT-deep': 'vpt-deep',
    'Houlsby adapter': 'houlsby',
    'AdaptFormer': 'adaptformer',
    'LoRA r=8': 'lora-r8',
    'DyLoRA r=8': 'dylora-r8',
    'MoSLoRA r=8': 'moslora-r8',
    'MELoRA 2 x r=4': 'melora-r8',
    'GLoRA r=8': 'glora-r8',
    'PiSSA r=8': 'pissa-r8',
    'DoRA r=8': 'dora-r8',
    'SR-LoRA': 'sr-lora',
    'RLRR': 'rlrr',
    'full fine-tuning': 'full',
}
"""Names in the table, and in the names of the configs."""
MAIN = ('linear probe', 'BitFit', 'SSF', 'LoRA r=8', 'SR-LoRA', 'RLRR', 'full fine-tuning')
"""The methods of the short table."""
SHOTS = (5, 20)
SEEDS = (0, 1, 2)
TUNE_SEEDS = (100, 101, 102)  # other few-shot draws than those of the table
LR, HEAD_LR = 'optim_wrapper.optimizer.lr', 'optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult'
ALPHA = 'model.backbone.lora_alpha'
USUAL_GRID: dict[str, tuple[float, ...]] = {LR: (3e-3, 1e-2, 3e-2)}
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    'linear': {LR: (1e-2, 3e-2, 1e-1)},
    'lora-r8': {LR: (1e-3, 5e-3), HEAD_LR: (1, 30), ALPHA: (8, 32)},
    'sr-lora': {LR: (1e-3, 5e-3), HEAD_LR: (1, 30), ALPHA: (8, 32)},
    'full': {LR: (3e-4, 1e-3), HEAD_LR: (1, 30)},
}
"""What is searched; a method that is not here has the usual grid. The relatives of LoRA have the settings of LoRA."""


def config_path(config_dir: Path, method: str, n_shot: int) -> Path:
    """Return the config of a method of :data:`METHODS`."""
    return config_dir / f'vit-micro_{METHODS[method]}_digits-{n_shot}shot.py'


def run_method(
    config_dir: Path,
    work_dir: Path,
    method: str,
    n_shot: int,
    seed: int,
    split: str = 'test',
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Train by a config of the quickstart, then evaluate the trained model.

    Args:
        config_dir: Folder of the configs.
        work_dir: Parent of the folder of this run.
        method: Key of :data:`METHODS`.
        n_shot: Labelled images of each class.
        seed: Seed of the run and of the choice of images.
        split: ``'test'``, or ``'val'`` for choosing hyper-parameters.
        overrides: Settings that replace those of the config, by dotted key.

    Returns:
        The result.

    Raises:
        FileNotFoundError: There is no such config.
    """
    folder = work_dir / f'{METHODS[method]}_{n_shot}shot_seed{seed}'
    trial = run_trial(config_path(config_dir, method, n_shot), folder, seed, split, overrides)
    return Run(**vars(trial), method=method, n_shot=n_shot, seed=seed)


def choose_methods(names: Sequence[str]) -> list[str]:
    """Return keys of :data:`METHODS`, given by their names in the table or in the configs; ``all`` means all.

    Raises:
        ValueError: A name is unknown.
    """
    return choose(names, METHODS)


def run_all(
    config_dir: Path,
    work_dir: Path,
    methods: Iterable[str] = MAIN,
    shots: Iterable[int] = SHOTS,
    seeds: Iterable[int] = SEEDS,
    workers: int = 1,
) -> Iterator[Run]:
    """Yield the runs of the quickstart's table, in its order.

    Args:
        config_dir: Folder of the configs.
        work_dir: Where runs go.
        methods: Keys of :data:`METHODS`.
        shots: Labelled images of each class.
        seeds: Seeds of the runs.
        workers: Runs at the same time. Each has one thread, so that results do not depend on the number.
    """
    yield from _run_jobs(
        [(config_dir, work_dir, m, n, s) for n, m, s in itertools.product(shots, methods, seeds)], workers
    )


def _run_jobs(jobs: Sequence[tuple], workers: int) -> Iterator[Run]:
    return run_jobs(run_method, jobs, workers)


def rank_table(config_dir: Path, n_shot: int = SHOTS[-1]) -> str:
    """Return the table of the ranks that SR-LoRA chose, as text."""
    return str(settle_ranks(Config.fromfile(str(config_path(config_dir, 'SR-LoRA', n_shot)))))


def tune(
    config_dir: Path,
    work_dir: Path,
    methods: Iterable[str] = MAIN,
    shots: Iterable[int] = SHOTS,
    seeds: Sequence[int] = TUNE_SEEDS,
    workers: int = 1,
) -> Iterator[tuple[str, int, dict[str, float], float]]:
    """Search the hyper-parameters of each method on validation images, never on test images.

    Args:
        config_dir: Folder of the configs.
        work_dir: Where runs go.
        methods: Keys of :data:`METHODS`.
        shots: Labelled images of each class.
        seeds: Runs for each setting; their few-shot draws are not those of the table.
        workers: As for :func:`run_all`.

    Yields:
        Method, shots, setting and mean validation accuracy in percent.
    """
    cells = []
    for method, n_shot in itertools.product(methods, shots):
        grid = GRIDS.get(METHODS[method], USUAL_GRID)
        cells += [(method, n_shot, setting) for setting in settings_of(grid)]
    jobs = [
        (config_dir, work_dir / str(cell), method, n_shot, seed, 'val', setting)
        for cell, (method, n_shot, setting) in enumerate(cells)
        for seed in seeds
    ]
    runs = _run_jobs(jobs, workers)
    for method, n_shot, setting in cells:
        yield method, n_shot, setting, statistics.mean(run.accuracy for run in itertools.islice(runs, len(seeds)))
