"""The second job: adapt ``clip-micro`` to letters that it has not seen, by CLIP-LoRA and what it is compared with."""

import copy
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from .quickstart_runs import Run, choose, run_jobs, settings_of
from .test import test
from .trial import run_trial
from .variables import settle_variables

METHODS = {
    'linear probe': 'linear-probe',
    'Tip-Adapter': 'tip-adapter',
    'Tip-Adapter-F': 'tip-adapter-f',
    'CLIP-Adapter': 'clip-adapter',
    'CoOp': 'coop',
    'LayerNorm': 'layer-norm',
    '2SFS': 'two-stage',
    'CLIP-LoRA vision': 'clip-lora-vision',
    'CLIP-LoRA text': 'clip-lora-text',
    'CLIP-LoRA both': 'clip-lora',
}
"""Names in the table, and in the names of the configs."""
MAIN = ('linear probe', 'Tip-Adapter', 'CLIP-LoRA vision', 'CLIP-LoRA text', 'CLIP-LoRA both')
"""The methods of the short table."""
COMBINATIONS, SCRIPT = 'unseen combinations', 'unseen script (Armenian)'
TASKS = {COMBINATIONS: 'unseen-combinations', SCRIPT: 'unseen-scripts'}
"""Names in the output, and in the names of the configs."""
ZERO_SHOT: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (COMBINATIONS, COMBINATIONS, {}),
    ('... among all letters', COMBINATIONS, {'test_dataloader.dataset.label_space': 'split'}),
    (SCRIPT, SCRIPT, {}),
    ('all unseen scripts', SCRIPT, {'scripts': None}),
)
"""What is tested without training: name, task, settings."""
WEIGHTS = 'mmlora://clip-micro_glyphs'
SHOTS = (1, 4, 16)
SEEDS = (1, 2, 3)
TUNE_SEEDS = (101, 102, 103)  # other few-shot draws than those of the table
TUNE_SHOTS = (4,)  # One setting serves all numbers of images, as in the paper of CLIP-LoRA.
LR = 'optim_wrapper.optimizer.lr'
USUAL_GRID: dict[str, tuple[float, ...]] = {LR: (1e-3, 3e-3, 1e-2, 3e-2)}
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    'linear-probe': {LR: (3e-4, 1e-3, 3e-3, 1e-2)},
    'tip-adapter': {'model.alpha': (10.0, 30.0, 100.0), 'model.beta': (1.0, 5.5, 15.0)},
    'tip-adapter-f': {LR: (3e-4, 1e-3, 3e-3, 1e-2)},
    'coop': {LR: (3e-2, 1e-1, 3e-1)},
}
"""What is searched; a method that is not here has the usual grid."""


@dataclass(frozen=True)
class ZeroShot:
    """What clip-micro knows without training.

    Attributes:
        name: What was tested, one of :data:`ZERO_SHOT`.
        names: How many names an image is compared with.
        accuracy: Top-1, in percent.
    """

    name: str
    names: int
    accuracy: float

    @property
    def chance(self) -> float:
        """The accuracy of guessing, in percent."""
        return 100 / self.names


def config_path(config_dir: Path, method: str, task: str) -> Path:
    """Return the config of a method, a key of :data:`METHODS` or ``'zero-shot'``, and a key of :data:`TASKS`."""
    return config_dir / f'{METHODS.get(method, method)}_clip-micro_{TASKS[task]}.py'


def choose_methods(names: Sequence[str]) -> list[str]:
    """Return keys of :data:`METHODS`, given by their names in the table or in the configs; ``all`` means all.

    Raises:
        ValueError: A name is unknown.
    """
    return choose(names, METHODS)


def zero_shot(config_dir: Path, work_dir: Path, weights: str = WEIGHTS) -> Iterator[ZeroShot]:
    """Test clip-micro without training.

    Args:
        config_dir: Folder of the configs.
        work_dir: Where logs go.
        weights: Those of clip-micro.

    Yields:
        A result for each of :data:`ZERO_SHOT`.
    """
    for number, (name, task, settings) in enumerate(ZERO_SHOT):
        cfg = Config.fromfile(str(config_path(config_dir, 'zero-shot', task)))
        cfg.merge_from_dict({'log_level': 'ERROR', **settings})
        names = _count_names(cfg)
        metrics = test(cfg, weights, work_dir=str(work_dir / f'zero-shot_{number}'), record=False)
        yield ZeroShot(name, names, metrics['accuracy/top1'])


def _count_names(cfg: Config) -> int:
    """Return with how many names the images of the test data are compared."""
    cfg = copy.deepcopy(cfg)
    settle_variables(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return len(DATASETS.build(cfg.test_dataloader.dataset).metainfo['classes'])


def run_method(
    config_dir: Path,
    work_dir: Path,
    task: str,
    method: str,
    n_shot: int,
    seed: int,
    tuning: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Train by a config of the quickstart, then evaluate the trained model.

    Args:
        config_dir: Folder of the configs.
        work_dir: Parent of the folder of this run.
        task: Key of :data:`TASKS`.
        method: Key of :data:`METHODS`.
        n_shot: Labelled images of each letter.
        seed: Seed of the run and of the choice of images.
        tuning: Whether to take the letters for choosing hyper-parameters.
        overrides: Settings that replace those of the config, by dotted key.

    Returns:
        The result.

    Raises:
        FileNotFoundError: There is no such config.
    """
    folder = work_dir / TASKS[task] / f'{METHODS[method]}_{n_shot}shot_seed{seed}'
    settings = {'shot': n_shot, 'tune': tuning, **(overrides or {})}
    trial = run_trial(config_path(config_dir, method, task), folder, seed, overrides=settings)
    return Run(**vars(trial), method=method, n_shot=n_shot, seed=seed)


def run_all(
    config_dir: Path,
    work_dir: Path,
    task: str,
    methods: Iterable[str] = MAIN,
    shots: Iterable[int] = SHOTS,
    seeds: Iterable[int] = SEEDS,
    workers: int = 1,
) -> Iterator[Run]:
    """Yield the runs of the table of a task, in its order.

    Args:
        config_dir: Folder of the configs.
        work_dir: Where runs go.
        task: Key of :data:`TASKS`.
        methods: Keys of :data:`METHODS`.
        shots: Labelled images of each letter.
        seeds: Seeds of the runs.
        workers: Runs at the same time. Each has one thread, so that results do not depend on the number.
    """
    yield from _run_jobs([(config_dir, work_dir, task, *cell) for cell in itertools.product(methods, shots, seeds)],
                         workers)  # yapf: disable


def _run_jobs(jobs: Sequence[tuple], workers: int) -> Iterator[Run]:
    return run_jobs(run_method, jobs, workers)


def tune(
    config_dir: Path,
    work_dir: Path,
    task: str,
    methods: Iterable[str] = MAIN,
    shots: Iterable[int] = TUNE_SHOTS,
    seeds: Sequence[int] = TUNE_SEEDS,
    workers: int = 1,
) -> Iterator[tuple[str, dict[str, float], float]]:
    """Search the hyper-parameters of each method on the letters for that, never on those of the table.

    Args:
        config_dir: Folder of the configs.
        work_dir: Where runs go.
        task: Key of :data:`TASKS`.
        methods: Keys of :data:`METHODS`.
        shots: Labelled images of each letter; a setting counts by its mean over them.
        seeds: Runs for each setting; their draws are not those of the table.
        workers: As for :func:`run_all`.

    Yields:
        Method, setting and mean accuracy in percent.
    """
    cells = [(method, setting) for method in methods
             for setting in settings_of(GRIDS.get(METHODS[method], USUAL_GRID))]  # yapf: disable
    draws = list(itertools.product(shots, seeds))
    jobs = [
        (config_dir, work_dir / str(cell), task, method, n_shot, seed, True, setting)
        for cell, (method, setting) in enumerate(cells)
        for n_shot, seed in draws
    ]
    runs = _run_jobs(jobs, workers)
    for method, setting in cells:
        yield method, setting, statistics.mean(run.accuracy for run in itertools.islice(runs, len(draws)))
