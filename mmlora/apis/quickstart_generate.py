"""The fourth job: generate LoRAs for tasks that no generator has seen, and compare them with what costs less.

A task is some letters of a script in one way of writing (:mod:`mmlora.datasets.glyph_ways`). The bank that the package
brings has LoRAs of tasks of the training scripts; held-out tasks have other scripts and other ways, or are handwritten
digits. Five images of each of five classes say what the task is; all rows see the same tasks.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from torch import Tensor

from .. import assets
from ..datasets.glyph_ways import FIRST, PREFIX
from ..datasets.split_files import load_split
from ..episodes import draw_episode, positions_by_class
from ..evaluation import paired_difference
from ..io.atomic import write_text
from ..io.lora_banks import INDEX, LoRABanks
from ..models.generators import LoRAGenerator
from ..models.generators.codec import LoRACodec
from ..models.generators.functional import FrozenFeatures
from ..models.generators.support import support_loss
from ..models.heads.prototype_head import prototype_scores
from .extract_task_vectors import extract_task_vectors
from .generate_lora import load_generator
from .generator_support import Viewer, build_viewer
from .quickstart_runs import bind_folder, run_jobs
from .train import train

BANKS = 'banks_vit-micro_glyphs'
SUFFIX = '_vit-micro_glyphs-5way'
N_WAY, N_SHOT, N_QUERY = 5, 5, 10
TASKS = {'unseen scripts': 'test', 'handwritten digits': 'digits'}
"""What is tested, and how :func:`draw_tasks` calls it."""
COUNTS = {'test': 54, 'digits': 16, 'val': 60}
TOGETHER = 10
"""Tasks whose images go through the backbone in one batch."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        slug: Its name on the command line.
        config: The config of its generator, without the ending that all share; None begins with no change.
        steps: Of tuning on the support images, after that.
        lr: Of the tuning.
        support: What the LoRA is generated from: the ``'own'`` images of the task; ``'shuffled'``: those of all tasks,
            dealt anew; ``'other'``: those of the next task of the unseen scripts, in another script and way. The
            prototypes always come from the own ones.
    """

    slug: str
    config: str | None = None
    steps: int = 0
    lr: float = 1e-2
    support: str = 'own'


GENERATOR = 'layer-hyper-net'
"""The generator of the rows that are called generated; it was the best on the tasks for validation."""
FIRST_ROW, MEAN_ROW = 'prototypes, no LoRA', 'mean LoRA'
"""The rows that others are compared with."""
ROWS = {
    FIRST_ROW: Row('prototypes'),
    MEAN_ROW: Row('mean', 'retrieval-mean'),
    'nearest LoRA': Row('nearest', 'retrieval-nearest'),
    'top-4 LoRAs': Row('top-k', 'retrieval-top-k'),
    'PCA + ridge': Row('pca-ridge', 'pca-ridge'),
    'generated': Row('generated', GENERATOR),
    '... shuffled support': Row('shuffled', GENERATOR, support='shuffled'),
    '... support of another task': Row('other', GENERATOR, support='other'),
    'mean LoRA + 10 steps': Row('mean-tuned', 'retrieval-mean', 10),
    'generated + 10 steps': Row('generated-tuned', GENERATOR, 10),
    'tuned, 30 steps': Row('tuned', None, 30),
}
"""Rows by their names in the table."""
CANDIDATES = (
    'retrieval-mean', 'retrieval-nearest', 'retrieval-top-k', 'pca-ridge', 'pca-ridge-stats', 'layer-hyper-net')
"""Configs that :func:`tune` tries."""


@dataclass(frozen=True)
class Shown:
    """A task as a test shows it.

    Attributes:
        support: Prepared images ``(S, C, H, W)``.
        labels: int64 ``(S,)``.
        query: Prepared images ``(Q, C, H, W)``.
        answers: int64 ``(Q,)``.
    """

    support: Tensor
    labels: Tensor
    query: Tensor
    answers: Tensor


@dataclass(frozen=True)
class Found:
    """What a row reaches.

    Attributes:
        accuracies: Of the tasks, in percent.
        novelty: For each task the distance of its LoRA to the nearest one of the bank, relative to the length of that
            one; empty where there is no LoRA.
    """

    accuracies: list[float]
    novelty: list[float]


@dataclass(frozen=True)
class Stages:
    """Where the files of the quickstart lie.

    Attributes:
        configs: ``configs/icm_lora``.
        work_dir: Of all stages.
        banks: Folder of the banks; None takes those of the package.
    """

    configs: Path
    work_dir: Path
    banks: str | None = None

    @property
    def bank_folder(self) -> str:
        """The folder of the banks."""
        return self.banks or assets.folder(BANKS)

    def config(self, name: str) -> Config:
        """Return the config of a generator, reading from the banks and writing below the work directory."""
        cfg = Config.fromfile(str(self.configs / f'{name}{SUFFIX}.py'))
        cfg.merge_from_dict(dict(log_level='ERROR', bank_folder=self.bank_folder))
        if 'task_vectors' in cfg:
            cfg.task_vectors = str(self.work_dir / 'task_vectors' / Path(cfg.task_vectors).name)
        return cfg


def draw_tasks(which: str, count: int, viewer: Viewer) -> Iterator[Shown]:
    """Draw held-out tasks; the first ones of many are those of few.

    Args:
        which: ``'val'`` or ``'test'``, scripts and ways of that split; or ``'digits'``.
        count: How many.
        viewer: Prepares images.
    """
    for task in _draw_images(which, count):
        parts = []
        for images in task:
            parts.append(viewer.prepare(images))
            parts.append(torch.arange(N_WAY).repeat_interleave(len(images) // N_WAY))
        yield Shown(*parts)


@lru_cache(maxsize=4)  # A process tests many rows on the same tasks.
def _draw_images(which: str, count: int) -> list[tuple[list[Any], list[Any]]]:
    """Return the support and the query images of each task, class by class."""
    found = []
    scripts = [] if which == 'digits' else load_split(f'glyphs/{which}.json')['scripts']
    digits = dict(type='Digits', split='test', pipeline=[dict(type='PackInputs')])
    for number in range(count):
        if number == 0 or scripts:
            letters = dict(type='Glyphs', split=which, samples_per_class=N_SHOT + N_QUERY,
                           scripts=scripts and [scripts[number % len(scripts)]],
                           distortion=f'{PREFIX}{FIRST.get(which, 0) + number}', pipeline=digits['pipeline'])
            images = DATASETS.build(letters if scripts else digits)
            positions = positions_by_class(images.get_gt_labels())
        episode = draw_episode(positions, N_WAY, N_SHOT, N_QUERY, 0, number)
        parts = (episode.support, episode.query)
        found.append(tuple([images[int(place)] for place in places.reshape(-1)] for places in parts))
    return found


def train_generator(stages: Stages, name: str, say: Say = print) -> Path:
    """Describe the tasks of the bank, train a generator on it, and return the checkpoint; what is there is kept.

    Args:
        stages: Where files lie.
        name: Of the config, without the ending that all share.
        say: Gets lines of progress.

    Raises:
        ValueError: The folder holds a generator of other settings or of another bank.
    """
    folder, cfg = stages.work_dir / name, stages.config(name)
    bind_folder(folder, cfg.to_dict(), (Path(stages.bank_folder) / INDEX).read_text(encoding='utf-8'))
    done = sorted(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    if (folder / 'done').is_file() and done:
        return done[-1]
    if 'task_vectors' in cfg and not Path(cfg.task_vectors).is_file():
        path, _ = extract_task_vectors(cfg, device='cpu')
        say(f'what the tasks of the bank look like: {path}')
    train(cfg, work_dir=str(folder), resume='auto')
    write_text(folder / 'done', '')
    path = max(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    say(f'{name}: {path}')
    return path


def describe(generator: LoRAGenerator, viewer: Viewer, tasks: Sequence[Shown], how: str) -> Tensor:
    """Return what a generator is told of tasks, ``(n, ...)``; see :class:`Row` for ``how``."""
    if how == 'other':
        tasks = list(draw_tasks('test', len(tasks) + 1, viewer))[1:]
    images = torch.stack([task.support for task in tasks])
    if how == 'shuffled':
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(images) * images.shape[1]))
        images = images.flatten(0, 1)[order].view_as(images)
    return torch.stack([generator.task_encoder.describe(viewer.features, generator.codec, own, task.labels)
                        for own, task in zip(images, tasks, strict=True)])  # yapf: disable


def tune_loras(
    frozen: FrozenFeatures, codec: LoRACodec, tasks: Sequence[Shown], vectors: Tensor, steps: int, lr: float
) -> Tensor:
    """Return LoRAs ``(n, L)`` of n tasks after steps of Adam on their support, each image left out of its class mean.

    Args:
        frozen: Gives features.
        codec: Of the LoRAs.
        tasks: n of them.
        vectors: ``(n, L)`` to begin with.
        steps: How many.
        lr: The rate.
    """
    vectors = vectors.clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr)
    images = torch.cat([task.support for task in tasks])
    for _ in range(steps):
        features = frozen(images, codec.full_spec, codec.tensors(vectors)).unflatten(0, (len(tasks), -1))
        temperature = features.shape[-1] ** 0.5  # As the LoRAs of the bank learned.
        loss = sum(support_loss(own, task.labels, temperature=temperature)
                   for own, task in zip(features, tasks, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vectors.detach()


@torch.no_grad()
def accuracies(
    frozen: FrozenFeatures, codec: LoRACodec, tasks: Sequence[Shown], vectors: Tensor | None
) -> list[float]:
    """Return the accuracy of the nearest prototype on each task, in percent.

    Args:
        frozen: Gives features.
        codec: Of the LoRAs.
        tasks: n of them.
        vectors: ``(n, L)``; None takes the features without a LoRA.
    """
    images = torch.cat([torch.cat([task.support, task.query]) for task in tasks])
    change = () if vectors is None else (codec.full_spec, codec.tensors(vectors))
    found = []
    for features, task in zip(frozen(images, *change).unflatten(0, (len(tasks), -1)), tasks, strict=True):
        support, query = features.split([len(task.labels), len(task.answers)])
        scores = prototype_scores(support, task.labels, query, N_WAY)
        found.append(100 * (scores.argmax(1) == task.answers).double().mean().item())
    return found


def test_row(stages: Stages, row: Row, which: str, count: int, checkpoint: str | None) -> Found:
    """Test a row on held-out tasks; a result that is there for this checkpoint is kept.

    Args:
        stages: Where files lie.
        row: One of :data:`ROWS`, or another one.
        which: As for :func:`draw_tasks`.
        count: Number of tasks.
        checkpoint: Of the generator of the row; None where it has none.
    """
    about = dict(row=asdict(row), count=count, made=checkpoint and Path(checkpoint).stat().st_mtime_ns)
    file = stages.work_dir / 'tests' / f'{row.slug}_{which}.json'
    if file.is_file():
        known = json.loads(file.read_text(encoding='utf-8'))
        if known.pop('about') == about:
            return Found(**known)
    cfg = stages.config(row.config or ROWS[MEAN_ROW].config)
    viewer, banks = build_viewer(cfg, 'cpu'), LoRABanks.open(stages.bank_folder)
    frozen, tasks = viewer.features, list(draw_tasks(which, count, viewer))
    vectors = None
    if row.config:
        generator = load_generator(cfg, checkpoint)
        codec = generator.codec
        described = describe(generator, viewer, tasks, row.support)
        with torch.no_grad():
            vectors = generator.generate(described)[:, 0]
    else:
        codec = LoRACodec(banks.full_spec, factors=banks.factors)
        codec.fit(torch.cat([banks.vectors(task) for task in banks.tasks]), banks.shared)
        if row.steps:
            vectors = torch.zeros(count, codec.spec.length)
    found, ended = [], []
    for start in range(0, count, TOGETHER):
        some = tasks[start : start + TOGETHER]
        own = None if vectors is None else vectors[start : start + TOGETHER]
        if row.steps:
            own = tune_loras(frozen, codec, some, own, row.steps, row.lr)
        found += accuracies(frozen, codec, some, own)
        ended += [] if own is None else [own]
    result = Found(found, _novelty(torch.cat(ended), banks) if ended else [])
    write_text(file, json.dumps(dict(about=about, **asdict(result)), indent=1) + '\n')
    return result


def _novelty(vectors: Tensor, banks: LoRABanks) -> list[float]:
    known = torch.cat([banks.vectors(task) for task in banks.tasks])
    distance, nearest = torch.cdist(vectors, known).min(1)
    return (distance / known[nearest].norm(dim=1)).tolist()


def test_all(
    stages: Stages, rows: Sequence[str], checkpoints: Mapping[str, str], counts: Mapping[str, int], workers: int = 1
) -> Iterator[tuple[str, str, Found]]:
    """Yield which tasks, row and result of every test.

    Args:
        stages: Where files lie.
        rows: Keys of :data:`ROWS`.
        checkpoints: By config of a row.
        counts: Which tasks -> how many.
        workers: Tests at the same time, each with one thread.
    """
    cells = [(which, name) for which in counts for name in rows]
    jobs = [(stages, ROWS[name], which, counts[which], checkpoints.get(ROWS[name].config)) for which, name in cells]
    for (which, name), found in zip(cells, run_jobs(test_row, jobs, workers), strict=True):
        yield which, name, found


def tune(
    stages: Stages, checkpoints: Mapping[str, str], count: int, workers: int = 1
) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """Test generators on tasks of the scripts for validation.

    Args:
        stages: Where files lie.
        checkpoints: By config; that of the mean LoRA among them.
        count: Number of tasks.
        workers: Tests at the same time, each with one thread.

    Yields:
        Config, accuracy in percent, and the difference to the mean LoRA with its 95 % interval.
    """
    jobs = [(stages, Row(name, name), 'val', count, path) for name, path in checkpoints.items()]
    found = dict(zip(checkpoints, run_jobs(test_row, jobs, workers), strict=True))
    mean = found[ROWS[MEAN_ROW].config].accuracies
    for name, own in found.items():
        yield name, statistics.mean(own.accuracies), paired_difference(own.accuracies, mean)
