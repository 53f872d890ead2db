"""A LoRA from a task vector that a file holds, as ICM-LoRA publishes it: no image is looked at."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..io.lora_folder import write_lora_folder
from ..io.task_vectors import TaskVectors
from ..version import __version__
from .generate_lora import file_digest, load_generator


def generate_from_vectors(
    cfg: Config,
    checkpoint: str | os.PathLike,
    task_vectors: str | os.PathLike,
    task: str,
    out: str | os.PathLike,
) -> Path:
    """Generate the LoRA of a task vector, without noise (z = 0), and write it as an adapter folder without a head.

    Args:
        cfg: Config of the training of the generator; it is not changed.
        checkpoint: Its checkpoint.
        task_vectors: A file of :mod:`mmlora.io.task_vectors`.
        task: Which of its tasks; of several descriptions the first is taken.
        out: The adapter folder to write.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The file has no such task, its vectors are of another encoder or of other weights than those of the
            generator, or what is generated is not finite.
    """
    generator, described = load_generator(cfg, checkpoint), TaskVectors.open(task_vectors)
    if task not in described.vectors:
        names = sorted(described.vectors)
        raise ValueError(f'{os.fspath(task_vectors)!r} has no task {task!r}, only {names[:5]} of {len(names)}')
    own, given = type(generator.task_encoder).__name__, described.encoder
    if given != own:
        raise ValueError(f'the vectors of {os.fspath(task_vectors)!r} were made by {given}, the generator was trained '
                         f'on those of {own}')
    spec, base = generator.codec.full_spec, described.record.get('base_sha256')
    if None not in (spec.base_sha256, base) and spec.base_sha256 != base:
        raise ValueError(f'the generator makes LoRAs for weights with the sha256 {spec.base_sha256}, the vectors of '
                         f'{os.fspath(task_vectors)!r} were seen by {base}')
    with torch.no_grad():
        vector = generator.generate(described.vectors[task][:1])[0, 0]
    record = dict(
        version=__version__,
        base=dict(sha256=spec.base_sha256, name=None),
        generated=dict(generator=generator.about, checkpoint_sha256=file_digest(checkpoint), task=task,
                       task_vectors_sha256=file_digest(task_vectors)),
    )  # fmt: skip
    return write_lora_folder(out, spec.weights(generator.codec.tensors(vector)), record, card=_card(record))


def _card(record: Mapping[str, Any]) -> str:
    made = record['generated']
    return ('# Generated LoRA\n\n'
            f'Made by {made["generator"]} from the task vector of {made["task"]!r}, without training and without '
            'noise.\n\n'
            f'* Generator: sha256 `{made["checkpoint_sha256"]}`; task vectors: `{made["task_vectors_sha256"]}`.\n'
            f'* Stands on weights with the sha256 `{record["base"]["sha256"]}`.\n')
