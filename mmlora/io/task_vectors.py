"""A file of task vectors: what support sets of the tasks of a bank look like to a frozen backbone.

A safetensors file with one tensor ``(K, ...)`` for each task, descriptions of K support sets, and a record as JSON in
its metadata: which encoder made them of which weights, from how many images. Nothing in it is ever run.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..plain_json import parse_json
from .atomic import write_bytes

FORMAT = 'mmlora task vectors 1'


@dataclass(frozen=True)
class TaskVectors:
    """Descriptions of tasks.

    Attributes:
        vectors: ``(K, ...)`` by the name of the task, all of one shape.
        record: ``encoder`` (its config), ``base_sha256``, ``shot``, ``seed``, as plain data.
    """

    vectors: Mapping[str, Tensor]
    record: Mapping[str, Any]

    @property
    def encoder(self) -> str:
        """Name of the task encoder that made them."""
        return str((self.record.get('encoder') or {}).get('type'))

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'TaskVectors':
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged or of something else.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'{str(path)!r} does not exist: make task vectors with '
                                    'tools/extract_task_vectors.py')
        try:
            with safe_open(path, 'pt') as file:
                about = file.metadata() or {}
                vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            record = parse_json(about.get('record', 'null'))
        except (SafetensorError, ValueError) as error:
            raise ValueError(f'{path} is damaged: {error}. Extract the task vectors again') from error
        if about.get('format') != FORMAT or not isinstance(record, dict) or not isinstance(
                record.get('encoder', {}), dict):
            raise ValueError(f'{path} has format={about.get("format")!r}, where {FORMAT!r} is expected')
        return cls(check_vectors(vectors, str(path)), record)

    def write(self, path: str | os.PathLike) -> Path:
        """Write the file in one step.

        Raises:
            ValueError: The name does not end in ``.safetensors``, or the vectors do not fit each other.
        """
        if Path(path).suffix != '.safetensors':
            raise ValueError(f'{os.fspath(path)!r} must end in .safetensors')
        vectors = {name: value.detach().float().cpu().contiguous() for name, value in self.vectors.items()}
        check_vectors(vectors, str(path))
        about = dict(format=FORMAT, record=json.dumps(dict(self.record), allow_nan=False))
        return write_bytes(path, save(vectors, metadata=about))

    def stack(self, tasks: list[str], where: str = 'the file of task vectors') -> Tensor:
        """Return the descriptions of some tasks, ``(T, K, ...)``.

        Raises:
            ValueError: One has none.
        """
        missing = [name for name in tasks if name not in self.vectors]
        if missing:
            raise ValueError(f'{where} has no vector of {len(missing)} tasks of the bank, such as {missing[0]!r}: '
                             'extract them again with tools/extract_task_vectors.py')
        return torch.stack([self.vectors[name] for name in tasks])


def check_vectors(vectors: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
    """Return the vectors, after checking that they can stand beside each other.

    Raises:
        ValueError: There is none, or shapes differ; two are named. Or some are not finite.
    """
    if not vectors:
        raise ValueError(f'{where} holds no task vector')
    first, shape = next((name, value.shape) for name, value in vectors.items())
    for name, value in vectors.items():
        if value.shape != shape or value.ndim < 2 or not len(value):
            raise ValueError(f'{where}: the vectors of {name!r} are {tuple(value.shape)}, those of {first!r} '
                             f'{tuple(shape)}: give all tasks as many classes, images and draws')
        if not value.isfinite().all():
            raise ValueError(f'{where}: the vectors of {name!r} are not finite')
    return vectors
