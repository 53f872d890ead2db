"""Features of images on disk.

A store is a folder for each thing that computes features (a space: weights and what else all its features depend on),
with shards in it: safetensors files that hold rows and their keys. Shards are written once, under names of their own,
in one step. So a kill loses what was not yet written, at most one shard, and writers at the same time do not meet: the
worst is that both computed the same row. Nothing is ever changed or deleted here; any folder may be deleted by hand.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import safetensors.torch
import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .atomic import write_bytes, write_text
from .feature_keys import KEY_LENGTH, describe, key_of, tensors_sha256
from .spectrum_cache import cache_folder

FORMAT = 'mmlora features 1'
ABOUT = 'about.json'


class FeatureStore:
    """Rows of numbers by key, on disk and in memory.

    Args:
        space: What all features of the store depend on: a hash of the weights, the precision and so on. Each space has
            a folder of its own. ``about.json`` in it says the space, for people to read.
        folder: Folder of all spaces; by default ``features`` in :func:`mmlora.io.spectrum_cache.cache_folder`.
        shard_size: Rows of a file. Larger shards are fewer files, and more to compute again after a kill.

    Raises:
        ValueError: ``shard_size`` is below 1.
    """

    def __init__(
        self, space: Mapping[str, Any], folder: str | os.PathLike | None = None, shard_size: int = 1024
    ) -> None:
        self.check_shard_size(shard_size)
        self.space, self.shard_size = describe(space), shard_size
        self.folder = (Path(folder) if folder else cache_folder() / 'features') / key_of(self.space)
        self._shards: list[Tensor] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._seen: set[str] = set()
        self._waiting: dict[str, Tensor] = {}
        self.refresh()

    @staticmethod
    def check_shard_size(shard_size: int) -> None:
        """Check the number of rows of a file.

        Raises:
            ValueError: It is below 1 or no number.
        """
        if isinstance(shard_size, bool) or not isinstance(shard_size, int) or shard_size < 1:
            raise ValueError(f'shard_size must be a number of rows of at least 1, got {shard_size!r}')

    def __len__(self) -> int:
        return len(self._places) + len(self._waiting)

    def __contains__(self, key: str) -> bool:
        return key in self._places or key in self._waiting

    def refresh(self) -> None:
        """Read the shards that others have written since. Those that are damaged are named and left out."""
        for path in sorted(self.folder.glob('*.safetensors')):
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            try:
                keys, rows = read_shard(path)
            except FileNotFoundError:
                continue  # Deleted by hand at this moment.
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                print_log(f'{path} is damaged ({error}): what it held is computed again. Delete it to be rid of this '
                          'warning', logger='current', level=logging.WARNING)
                continue
            self._take(keys, rows)

    def get(self, keys: Sequence[str]) -> Tensor:
        """Return the rows of these keys, ``(len(keys), D)``.

        Raises:
            KeyError: A key is not in the store.
            ValueError: There is no key.
        """
        if not keys:
            raise ValueError('rows are asked for by at least one key')
        self.flush()
        where: dict[int, tuple[list[int], list[int]]] = {}
        for position, key in enumerate(keys):
            shard, row = self._places[key]
            positions, rows = where.setdefault(shard, ([], []))
            positions.append(position)
            rows.append(row)
        some = self._shards[next(iter(where))]
        result = some.new_empty(len(keys), some.shape[1])
        for shard, (positions, rows) in where.items():
            result[positions] = self._shards[shard][rows]
        return result

    def add(self, keys: Sequence[str], rows: Tensor) -> None:
        """Add rows ``(len(keys), D)``; each full shard is written at once, the rest by :meth:`flush`.

        Raises:
            ValueError: Keys and rows do not fit each other.
            OSError: The folder cannot be written to.
        """
        if rows.ndim != 2 or len(rows) != len(keys) or any(len(key) != KEY_LENGTH for key in keys):
            raise ValueError(f'{len(keys)} keys of {KEY_LENGTH} digits need as many rows, got {tuple(rows.shape)}')
        for key, row in zip(keys, rows.detach().cpu(), strict=True):
            if key not in self:
                self._waiting[key] = row
        while len(self._waiting) >= self.shard_size:
            self._write(self.shard_size)

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if self._waiting:
            self._write(len(self._waiting))

    def _write(self, count: int) -> None:
        keys = list(self._waiting)[:count]
        rows = torch.stack([self._waiting[key] for key in keys])
        about = self.folder / ABOUT
        if not about.exists():
            write_text(about, json.dumps(dict(format=FORMAT, space=self.space), indent=1, sort_keys=True) + '\n')
        path = self.folder / f'{uuid4().hex}.safetensors'
        write_shard(path, keys, rows)
        self._seen.add(path.name)
        for key in keys:
            del self._waiting[key]
        self._take(keys, rows)

    def _take(self, keys: Sequence[str], rows: Tensor) -> None:
        self._shards.append(rows)
        for row, key in enumerate(keys):
            self._places.setdefault(key, (len(self._shards) - 1, row))


def write_shard(path: Path, keys: Sequence[str], rows: Tensor) -> None:
    """Write rows ``(n, D)`` and their keys, in one step."""
    codes = torch.frombuffer(bytearray(bytes.fromhex(''.join(keys))), dtype=torch.uint8)
    tensors = dict(keys=codes.view(len(keys), KEY_LENGTH // 2), rows=rows.contiguous())
    metadata = dict(format=FORMAT, sha256=tensors_sha256(sorted(tensors.items())))
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def read_shard(path: Path) -> tuple[list[str], Tensor]:
    """Return keys and rows of a shard.

    Raises:
        ValueError: It is no shard, or its content is not what was written.
        OSError: It cannot be read.
        SafetensorError: It is no safetensors file, or not all of one.
    """
    with safe_open(path, 'pt') as file:
        metadata = file.metadata() or {}
        if metadata.get('format') != FORMAT:
            raise ValueError(f'its format is {metadata.get("format")!r}, not {FORMAT!r}')
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    if tensors_sha256(sorted(tensors.items())) != metadata.get('sha256'):
        raise ValueError('its content is not what was written')
    codes, rows = tensors['keys'], tensors['rows']
    return [bytes(code).hex() for code in codes.numpy()], rows
