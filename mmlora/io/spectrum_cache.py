"""A small cache on disk for what the spectra of weights have cost: two numbers, or all singular values, by hash."""

import json
import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from mmengine.logging import print_log

from ..plain_json import parse_json
from .atomic import write_text


def cache_folder() -> Path:
    """Return the folder for cached results: ``$MMLORA_CACHE``, else ``mmlora`` in the user's cache folder."""
    own = os.environ.get('MMLORA_CACHE')
    if own:
        return Path(own)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmlora'


class SpectrumCache(MutableMapping[str, list]):
    """``{sha256: [sigma1, fro]}`` and ``{sha256/values: [sigma1, sigma2, ...]}``, read from a JSON file.

    :meth:`save` writes it back.

    A file that cannot be read or written costs time, not results: it is reported and the numbers are computed.

    Args:
        path: The file; by default ``spectra.json`` in :func:`cache_folder`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path else cache_folder() / 'spectra.json'
        self._changed = False
        self._data: dict[str, list] = {}
        if self.path.is_file():
            try:
                data = parse_json(self.path.read_text(encoding='utf-8'))
                self._data = {k: v for k, v in data.items() if _valid(k, v)}
            except (OSError, ValueError, AttributeError) as error:
                print_log(f'ignoring the cache {self.path}: {error}', logger='current')

    def __getitem__(self, key: str) -> list:
        return self._data[key]

    def __setitem__(self, key: str, value: list) -> None:
        self._data[key] = value
        self._changed = True

    def __delitem__(self, key: str) -> None:
        del self._data[key]
        self._changed = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def save(self) -> None:
        """Write the file if anything is new."""
        if not self._changed:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self._data))
            self._changed = False
        except OSError as error:
            print_log(f'the cache {self.path} cannot be written: {error}', logger='current')


def _valid(key: str, value: object) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(x, float) and math.isfinite(x) for x in value):
        return False
    if key.endswith('/values'):
        return value[0] > 0 and value == sorted(value, reverse=True) and value[-1] >= 0
    return len(value) == 2 and min(value) > 0
