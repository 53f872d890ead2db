"""Task vectors of all tasks of a bank. What ``tools/extract_task_vectors.py`` calls."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from ..io.lora_banks import BankTask, LoRABanks
from ..io.task_vectors import TaskVectors
from ..models.generators.codec import LoRACodec
from ..progress import tidy_terminal, tracked
from ..randomness import derive_seed
from .generator_support import Viewer, build_viewer
from .hub_tasks import HubImages, Ref, Source, build_sources
from .settle_generator import BANK_DATA
from .variables import settle_variables

SETTINGS = {'sources', 'n_way', 'shot', 'num_draws', 'seed', 'train_fraction'}


@tidy_terminal()
def extract_task_vectors(
    cfg: Config,
    banks: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    shot: int | None = None,
    num_draws: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Path, TaskVectors]:
    """Let the frozen backbone look at several support sets of each task of a bank, and write what it sees.

    Args:
        cfg: The config of a generator: its task encoder, its backbone, and ``task_images = dict(sources=..., shot=...,
            num_draws=..., n_way=None, seed=0, train_fraction=0.8)``, where ``sources`` are those of the bank. With
            ``n_way`` each support set shows so many classes of its task, drawn anew; without it all of them.
        banks: Folder of the banks; by default that of the training data.
        out: File to write; by default that of the training data.
        shot: Takes the place of ``task_images.shot``: images of a class in a support set.
        num_draws: Takes the place of ``task_images.num_draws``: support sets of a task.
        device: None takes a GPU where there is one.
        say: Gets a line now and then.

    Returns:
        The file, and what it holds.

    Raises:
        ValueError: The config lacks a part, a task has classes or images that the sources do not have, or the bank
            stands on other weights.
        FileNotFoundError: There is no bank.
    """
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    settle_variables(cfg)
    given = dict(cfg.get('task_images') or {})
    if not {'sources'} <= set(given) <= SETTINGS:
        raise ValueError(f'task_images of the config must have sources and may have {sorted(SETTINGS - {"sources"})}, '
                         f'got {sorted(given)}')
    data = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    if data.get('type') not in BANK_DATA and None in (banks, out):
        raise ValueError('the training data of the config are no bank: say where the banks are and what to write')
    opened = LoRABanks.open(banks or data['banks'])
    out = out or data['task_vectors']
    shot, num_draws = (given.get(name, default) if value is None else value
                       for name, value, default in (('shot', shot, 5), ('num_draws', num_draws, 16)))
    for name, value in dict(shot=shot, num_draws=num_draws).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f'{name} must be a whole number of at least 1, got {value!r}')
    viewer, node = build_viewer(cfg, device), cfg.model.get('generator') or cfg.model
    opened_on = opened.full_spec.base_sha256
    if opened_on not in (None, viewer.base_sha256):
        raise ValueError(f'the LoRAs of {opened.folder} stand on weights with the sha256 {opened_on}, those of the '
                         f'config have {viewer.base_sha256}: give both the same backbone')
    encoder_cfg = dict(node.get('task_encoder') or dict(type='MeanFeature'))
    encoder = MODELS.build(encoder_cfg)
    codec = LoRACodec(opened.full_spec, factors=opened.factors)
    codec.fit(opened.vectors(opened.tasks[0]), opened.shared or None)
    device = next(viewer.frozen.backbone.parameters()).device
    encoder, codec = encoder.to(device), codec.to(device)
    n_way = given.get('n_way')
    smallest = min(len(task.classes) for task in opened.tasks)
    if n_way is not None and (isinstance(n_way, bool) or not isinstance(n_way, int) or not 2 <= n_way <= smallest):
        raise ValueError(f'task_images.n_way must be a whole number from 2 to {smallest}, the classes of the smallest '
                         f'task, got {n_way!r}')
    images, seed = HubImages(build_sources(given['sources']), cache=True), given.get('seed', 0)
    found = {}
    for number, task in enumerate(tracked(opened.tasks, 'task')):
        classes = task_images(task, images.sources, given.get('train_fraction', 0.8))
        draws = [draw_support(classes, shot, derive_seed('support', seed, task.name, draw), task.name, n_way)
                 for draw in range(num_draws)]
        found[task.name] = torch.stack([_describe(encoder, viewer, codec, images, *draw) for draw in draws])
        images.forget()
        if say and (number + 1) % 20 == 0:
            say(f'{number + 1} of {len(opened.tasks)} tasks')
    record = dict(encoder=encoder_cfg | dict(type=encoder_cfg['type'].rpartition('.')[2]), shot=shot, n_way=n_way,
                  base_sha256=viewer.base_sha256, num_draws=num_draws, seed=seed)
    vectors = TaskVectors(found, record)
    return vectors.write(out), vectors


def task_images(task: BankTask, sources: Sequence[Source], train_fraction: float = 0.8) -> list[list[Ref]]:
    """Return the images of each class of a task that LoRAs may have learned from: the first part of each class.

    Classes are found by ``class_ids`` of the bank, numbers among the classes of all sources, else by their names.

    Raises:
        ValueError: A class is unknown to the sources.
    """
    known = {(source.first + place): (s, place) for s, source in enumerate(sources)
             for place in range(len(source.classes))}
    names = {source.classes[place]: number for number, (s, place) in known.items() for source in [sources[s]]}
    numbers = task.about.get('class_ids') or [names.get(name) for name in task.classes]
    found = []
    for name, number in zip(task.classes, numbers, strict=True):
        if number not in known or sources[known[number][0]].classes[known[number][1]] != name:
            raise ValueError(f'the class {name!r} of task {task.name!r} is none of the sources '
                             f'{[source.name for source in sources]}: give task_images those that the bank was built '
                             'from')
        s, place = known[number]
        own = [(s, part, position) for part, position in sources[s].images[place]]
        found.append(own[: max(1, int(len(own) * train_fraction))])
    return found


def draw_support(
    classes: Sequence[Sequence[Ref]], shot: int, seed: int, where: str, n_way: int | None = None
) -> tuple[list[Ref], list[int]]:
    """Draw ``shot`` images of each class, or of ``n_way`` of them; return them and their labels.

    Raises:
        ValueError: A class has too few.
    """
    rng = np.random.default_rng(seed)
    if n_way is not None:
        classes = [classes[place] for place in rng.choice(len(classes), n_way, replace=False)]
    refs, labels = [], []
    for label, own in enumerate(classes):
        if len(own) < shot:
            raise ValueError(f'class {label} of task {where!r} has {len(own)} images, which is fewer than shot={shot}')
        refs += [own[place] for place in rng.choice(len(own), shot, replace=False)]
        labels += [label] * shot
    return refs, labels


def _describe(
    encoder: Any, viewer: Viewer, codec: LoRACodec, images: HubImages, refs: Sequence[Ref], labels: Sequence[int]
) -> torch.Tensor:
    prepared = viewer.prepare([images[ref, 0, 0] for ref in refs])
    return encoder.describe(viewer.features, codec, prepared, torch.tensor(labels, device=prepared.device)).cpu()


def describe_record(record: Mapping[str, Any]) -> str:
    """Return what a file of task vectors was made from, in a line."""
    return f'{record["encoder"]["type"]}, {record["num_draws"]} support sets of {record["shot"]} images of each class'
