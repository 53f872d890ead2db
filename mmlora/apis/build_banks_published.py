"""Take over banks of the published code of ICM-LoRA. What ``tools/import_lora_bank.py`` calls."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..adapters.lora_spec import LoRASpec, lora_tensors
from ..io.lora_banks import LoRABanks
from ..io.published_banks import (
    TASK_VECTOR,
    published_files,
    read_published_checkpoint,
    read_published_task_vector,
)
from ..io.task_vectors import TaskVectors


def import_published_banks(
    tasks: Mapping[str, str | os.PathLike],
    out: str | os.PathLike,
    alpha: float = 8.0,
    rslora: bool = True,
    base_sha256: str | None = None,
    max_keep: int | None = None,
) -> LoRABanks:
    """Write banks from those of the published code; later checkpoints rank higher, since no validation is stored.

    Args:
        tasks: Name of each task and its folder, as :func:`mmlora.io.published_banks.published_files` takes it.
        out: The banks to write; missing or empty.
        alpha: Of the trainings.
        rslora: Whether their scaling is ``alpha / sqrt(r)``.
        base_sha256: Hash of the weights that they stand on, where it is known.
        max_keep: Only the last so many checkpoints of a task; None takes all.

    Raises:
        FileNotFoundError: A folder has no checkpoint.
        ValueError: There is no task, LoRAs differ in layers, rank or shapes, or a file holds something else.
    """
    if not tasks:
        raise ValueError('there is no bank to import: give at least one task')
    banks = None
    for name, folder in tasks.items():
        for epoch, path in list(published_files(folder).items())[-(max_keep or 0):]:
            weights = read_published_checkpoint(path, alpha, rslora)
            spec = LoRASpec.of_weights(weights, base_sha256)
            if banks is None:
                banks = LoRABanks.create(out, spec, metric='epoch', alpha=alpha, rslora=rslora)
            banks.full_spec.check_same(spec, str(path))
            banks.add(name, lora_tensors(weights), epoch, epoch, classes=(name,), source=str(Path(folder).name))
    return banks


def import_published_task_vectors(tasks: Mapping[str, str | os.PathLike], out: str | os.PathLike) -> Path:
    """Write a file of task vectors from ``hidden_state.pth`` of each task.

    Args:
        tasks: Name of each task and ``hidden_state.pth``, or the folder with it.
        out: The file to write, ``.safetensors``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file holds something else, or vectors differ in their length.
    """
    paths = {name: Path(path) / TASK_VECTOR if Path(path).is_dir() else Path(path) for name, path in tasks.items()}
    vectors = {name: read_published_task_vector(path)[None] for name, path in paths.items()}
    about = dict(encoder=dict(type='DecoderStates'), base_sha256=None, shot=None, seed=None)
    return TaskVectors(vectors, about).write(out)
