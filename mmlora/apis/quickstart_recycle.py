"""The third job: recycle the LoRAs of a hub into one that needs no tuning, and compare it on letters and digits."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..evaluation import EpisodeScores
from ..io.lora_folder import read_lora_folder
from ..io.pool import Pool
from ..models.batch_norm_prior import build_prior
from .hub_teachers import open_teachers
from .inversion_settings import InversionSettings
from .invert_hub import Say, invert_hub
from .merge_adapters import merge_adapter_folders
from .pool_sheet import contact_sheet
from .quickstart_runs import bind_folder, run_jobs, settings_of
from .test import test
from .train import train

HUB = 'mmlora://hub_vit-micro_glyphs-5way'
BASE = 'mmlora://vit-micro_glyphs'
SUFFIX = '_vit-micro_glyphs-5way'
MEMBERS = 12
"""LoRAs that images are made from, the first of the hub: what fits into the time of the quickstart."""
PER_CLASS, BATCH_SIZE, ITERATIONS = 6, 60, 100
RANK = 4
SHOTS = (1, 5)
EPISODES = 600
TASKS = {'unseen scripts': 'glyphs', 'handwritten digits': 'digits'}
"""What is tested, and how the config of the prototypes says it."""
FIRST = 'prototypes, no LoRA'
"""The method that the others are compared with."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        slug: Its name on the command line.
        run: The run of :func:`meta_train` whose checkpoint is tested; None tests the plain backbone.
        config: Name of its config without the ending that all share; the slug by default.
        slow: Whether it is left out of the short table.
    """

    slug: str
    run: str | None = None
    config: str = ''
    slow: bool = False


METHODS = {
    FIRST: Method('prototypes'),
    'linear probe': Method('linear-probe'),
    'LoRAs averaged + prototypes': Method('lora-avg-prototypes'),
    'LoRAs averaged + linear': Method('lora-avg-linear'),
    'meta-LoRA, fresh start': Method('meta-lora', 'fresh'),
    'meta-LoRA from the average': Method('meta-lora-average', 'from-average', 'meta-lora{}_from-average'),
    'P>M>F, real images': Method('pmf', 'pmf', slow=True),
    'LoRA + linear': Method('lora', slow=True),
    'full fine-tuning': Method('full', slow=True),
    'LoRAHub': Method('lorahub', slow=True),
    'MOLE': Method('mole', slow=True),
    'P>M>F, tuned': Method('pmf-tuned', 'pmf', 'pmf{}_tuned', slow=True),
}
"""Rows by their names in the table. All but P>M>F, which trains on real letters, see no training image."""
RUNS = {run: next(one for one in METHODS.values() if one.run == run) for run in ('fresh', 'from-average', 'pmf')}
"""The row whose config trains each run."""
MAIN = tuple(name for name, method in METHODS.items() if not method.slow)
GRID: dict[str, Sequence[Any]] = {
    'run': ('fresh', 'from-average'),
    'train_dataloader.batch_sampler.p_interpolate': (1.0, 0.5),
    'optim_wrapper.optimizer.lr': (1e-3, 3e-3),
}
"""What :func:`tune` tries."""


@dataclass(frozen=True)
class Stages:
    """Where the files of the quickstart lie.

    Attributes:
        configs: ``configs/lora_recycle``.
        work_dir: Of all stages.
    """

    configs: Path
    work_dir: Path

    @property
    def pool(self) -> Path:
        """The folder of the pool."""
        return self.work_dir / 'pool'

    @property
    def average(self) -> Path:
        """The folder of the average of the hub."""
        return self.work_dir / 'average'

    def config(self, method: Method) -> Path:
        """Return the config of a row."""
        return self.configs / f'{(method.config or method.slug + "{}").format(SUFFIX)}.py'


def make_pool(stages: Stages, say: Say = print, iterations: int = ITERATIONS, members: int = MEMBERS) -> Pool:
    """Make images from the first LoRAs of the hub; a pool that is not finished is gone on with.

    Args:
        stages: Where files lie.
        say: Gets lines of progress.
        iterations: Of the inversion.
        members: How many LoRAs.
    """
    cfg = Config.fromfile(str(stages.configs / f'hub{SUFFIX}.py'))
    names = [f'{number:05d}' for number in range(members)]
    pool = invert_hub(
        open_teachers(HUB, cfg, 'cpu', None, names), stages.pool, PER_CLASS, BATCH_SIZE,
        InversionSettings(iterations=iterations), build_prior('glyphs', None), report_every=iterations, say=say,
    )  # fmt: skip
    contact_sheet(pool, stages.pool / 'sheet.png', [])
    return pool


def make_average(stages: Stages) -> Path:
    """Average the LoRAs of the hub, as changes of the weights, and return the folder."""
    return merge_adapter_folders([HUB], stages.average, 'change', rank=RANK)


def meta_train(
    stages: Stages, run: str, settings: Mapping[str, Any] | None = None, folder: str = ''
) -> tuple[str, float]:
    """Meta-train, or train P>M>F, and return the checkpoint that is best on the letters for validation, and how good.

    A run that was killed goes on, one that is finished is kept; one of other settings, or of another pool or average,
    is an error.

    Args:
        stages: Where files lie; the pool, and for a start from the average that too, must be there.
        run: A key of :data:`RUNS`.
        settings: Settings that replace those of the config, by dotted key.
        folder: Of the run within the work directory, its name by default.

    Returns:
        The path, and the accuracy with 1 shot in percent.

    Raises:
        ValueError: The folder holds another run.
    """
    cfg = Config.fromfile(str(stages.config(RUNS[run])))
    given = dict(log_level='ERROR', hub_folder=HUB, pool_folder=str(stages.pool), **(settings or {}))
    made_of: list[Any] = [None if run == 'pmf' else Pool.open(stages.pool).about]
    if cfg.get('load_from'):
        given['load_from'] = str(stages.average)
        made_of.append(read_lora_folder(stages.average).record['files'])
    cfg.merge_from_dict(given)
    work_dir = stages.work_dir / (folder or run)
    bind_folder(work_dir, cfg.to_dict(), *made_of)
    runner = train(cfg, work_dir=str(work_dir), resume='auto')
    best, score = (runner.message_hub.get_info(name) for name in ('best_ckpt', 'best_score'))
    return str(work_dir / Path(best).name), score


def test_cell(
    stages: Stages, name: str, task: str, checkpoint: str, episodes: int = EPISODES
) -> dict[int, EpisodeScores]:
    """Test a row on one task, and return the accuracies of its episodes for each number of shots.

    Args:
        stages: Where files lie.
        name: A key of :data:`METHODS`.
        task: A key of :data:`TASKS`.
        checkpoint: The weights.
        episodes: How many; the first ones of 600 are those of a test of 600.
    """
    method = METHODS[name]
    cfg = Config.fromfile(str(stages.config(method)))
    target = Config.fromfile(str(stages.configs / f'prototypes_vit-micro_{TASKS[task]}-5way.py'))
    cfg.test_dataloader = copy.deepcopy(target.test_dataloader)
    cfg.merge_from_dict(dict(log_level='WARNING', hub_folder=HUB, load_from=None))
    folder = stages.work_dir / 'tests' / f'{method.slug}_{TASKS[task]}'
    files = {shot: folder / f'{shot}-shot.json' for shot in SHOTS}
    for metric, shot in zip(cfg.test_evaluator, SHOTS, strict=True):
        metric.update(n_episodes=episodes, save=str(files[shot]))
    test(cfg, checkpoint, work_dir=str(folder), record=False)
    return {shot: EpisodeScores.read(file) for shot, file in files.items()}


def test_all(
    stages: Stages, checkpoints: Mapping[str, str], episodes: int = EPISODES, workers: int = 1
) -> Iterator[tuple[str, str, dict[int, EpisodeScores]]]:
    """Yield task, row and accuracies of every test, task by task.

    Args:
        stages: Where files lie.
        checkpoints: The weights of each row.
        episodes: Of each test.
        workers: Tests at the same time, each with one thread.
    """
    cells = [(task, name) for task in TASKS for name in checkpoints]
    jobs = [(stages, name, task, checkpoints[name], episodes) for task, name in cells]
    for (task, name), found in zip(cells, run_jobs(test_cell, jobs, workers), strict=True):
        yield task, name, found


def tune(stages: Stages) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield settings of meta-training and the best 1-shot accuracy on the letters for validation, in percent."""
    for number, setting in enumerate(settings_of(GRID)):
        others = {key: value for key, value in setting.items() if key != 'run'}
        yield setting, meta_train(stages, setting['run'], others, f'tune/{number}')[1]
