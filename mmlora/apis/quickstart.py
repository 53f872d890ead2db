"""The main job: adapt ``vit-micro`` to real handwritten digits in four ways and compare them."""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .settle import settle_ranks
from .trial import Trial, run_trial

METHODS = {
    'linear probe': 'linear',
    'LoRA r=8': 'lora-r8',
    'SR-LoRA': 'sr-lora',
    'full fine-tuning': 'full',
}
SHOTS = (5, 20)
SEEDS = (0, 1, 2)
TUNE_SEEDS = (100, 101, 102)  # other few-shot draws than those of the table
LR, HEAD_LR = 'optim_wrapper.optimizer.lr', 'optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult'
ALPHA = 'model.backbone.lora_alpha'
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    'linear': {LR: (1e-2, 3e-2, 1e-1)},
    'lora-r8': {LR: (1e-3, 5e-3), HEAD_LR: (1, 30), ALPHA: (8, 32)},
    'sr-lora': {LR: (1e-3, 5e-3), HEAD_LR: (1, 30), ALPHA: (8, 32)},
    'full': {LR: (3e-4, 1e-3), HEAD_LR: (1, 30)},
}


@dataclass(frozen=True)
class Run(Trial):
    """A trial and what it tried.

    Attributes:
        method: Key of :data:`METHODS`.
        n_shot: Labelled images of each class.
        seed: Seed of the run and of the choice of images.
    """

    method: str
    n_shot: int
    seed: int


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


def run_all(
    config_dir: Path, work_dir: Path, shots: Iterable[int] = SHOTS, seeds: Iterable[int] = SEEDS
) -> Iterator[Run]:
    """Yield the runs of the quickstart's table as they finish."""
    for n_shot, method, seed in itertools.product(shots, METHODS, seeds):
        yield run_method(config_dir, work_dir, method, n_shot, seed)


def summary(runs: Sequence[Run]) -> str:
    """Return the table of accuracies (mean and standard deviation over seeds), trained parameters and seconds.

    Args:
        runs: Results; rows follow the order in which methods first occur.
    """
    shots = sorted({run.n_shot for run in runs})
    heads = [f'{n_shot} images/class' for n_shot in shots]
    lines = [f'{"method":<18}' + ''.join(f'{head:>18}' for head in heads) + f'{"trained":>10}{"s/run":>7}']
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        cells = []
        for n_shot in shots:
            values = [run.accuracy for run in own if run.n_shot == n_shot]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f'{statistics.mean(values):.1f} +- {spread:.1f} %' if values else '-')
        seconds = statistics.mean(run.seconds for run in own)
        row = ''.join(f'{cell:>18}' for cell in cells)
        lines.append(f'{method:<18}{row}{own[0].trainable:>10,}{seconds:>7.1f}')
    return '\n'.join(lines)


def rank_table(config_dir: Path, n_shot: int = SHOTS[-1]) -> str:
    """Return the table of the ranks that SR-LoRA chose, as text."""
    return str(settle_ranks(Config.fromfile(str(config_path(config_dir, 'SR-LoRA', n_shot)))))


def tune(
    config_dir: Path,
    work_dir: Path,
    methods: Iterable[str] = tuple(METHODS),
    shots: Iterable[int] = SHOTS,
    seeds: Sequence[int] = TUNE_SEEDS,
) -> Iterator[tuple[str, int, dict[str, float], float]]:
    """Search the hyper-parameters of each method on validation images, never on test images.

    Args:
        config_dir: Folder of the configs.
        work_dir: Where runs go.
        methods: Keys of :data:`METHODS`.
        shots: Labelled images of each class.
        seeds: Runs for each setting; their few-shot draws are not those of the table.

    Yields:
        Method, shots, setting and mean validation accuracy in percent.
    """
    for method, n_shot in itertools.product(methods, shots):
        grid = GRIDS[METHODS[method]]
        for values in itertools.product(*grid.values()):
            setting = dict(zip(grid, values, strict=True))
            runs = [run_method(config_dir, work_dir, method, n_shot, seed, 'val', setting) for seed in seeds]
            yield method, n_shot, setting, statistics.mean(run.accuracy for run in runs)
