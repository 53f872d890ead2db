"""What the folder of a run holds, read without running anything of it.

The config that a run has dumped is Python; :func:`read_settings` takes the literals of its assignments and never runs
it.
"""

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...io.checkpoint import load_checkpoint
from ...plain_json import parse_json
from ..details import FAILURES
from ..records import RESULTS, read_records
from ..resuming import POINTER

SCALARS = '*/vis_data/scalars.json'
LARGEST = 1e300
"""Of what is drawn: an axis from minus to plus of the largest number has no length that is a number."""
_LEFT_OUT = {'time', 'data_time', 'memory', 'step', 'iter', 'epoch', 'eta', 'base_lr'}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let whatever a file of somebody else makes fail be an error that begins with its name.

    Raises:
        ValueError: Something within the block failed.
    """
    try:
        yield
    except FAILURES as error:
        text = str(error) if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: {error}'
        raise ValueError(text if text.startswith(str(path)) else f'{path}: {text}') from error


@dataclass(frozen=True)
class Curves:
    """Numbers that were logged during training, as points ``(iteration, value)``.

    Attributes:
        train: Each quantity of the steps.
        val: Each metric of the validations.
    """

    train: Mapping[str, list[tuple[float, float]]]
    val: Mapping[str, list[tuple[float, float]]]


class Folder:
    """The folder of a run, of which each part is read once.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Results of tests; raises ValueError for a damaged file."""
        path = self.path / RESULTS
        if not path.is_file():
            return []
        with naming(path):
            return read_records(path)

    @cached_property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint, or the only file that looks like one."""
        pointer = self.path / POINTER
        if pointer.is_file():
            # A folder that was moved keeps the name of the file alone.
            named = self.path / Path(pointer.read_text(encoding='utf-8', errors='replace').strip()).name
            if named.is_file():
                return named
        found = sorted(self.path.glob('*.pth'), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """``meta`` of the checkpoint; raises ValueError where it cannot be read."""
        if self.checkpoint is None:
            return {}
        with naming(self.checkpoint):
            meta = load_checkpoint(self.checkpoint, convert=False).get('meta')
        return meta if isinstance(meta, dict) else {}

    @cached_property
    def own_meta(self) -> dict[str, Any]:
        """What this package wrote into ``meta`` of the checkpoint; raises ValueError where it holds something else."""
        own = self.meta.get('mmlora') or {}
        if not isinstance(own, dict) or not isinstance(own.get('protocol') or {}, dict):
            raise ValueError(f'{self.checkpoint}: meta.mmlora and its protocol must be dicts, got {str(own)[:80]}')
        return own

    @cached_property
    def config(self) -> Path | None:
        """The config that the training has dumped; a test that came later has replaced the one at the top."""
        starts = [path.with_name('config.py') for path in sorted(self.path.glob(SCALARS))]
        starts = [path for path in starts if path.is_file()]
        # That of a start which resumed says so, and would not repeat the run.
        begun = [path for path in starts if not _read_settings_of(path).get('resume')]
        found = begun or starts or sorted(path for path in self.path.glob('*.py') if path.is_file())
        return found[-1] if found else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the dumped config says, as far as it is literals."""
        return _read_settings_of(self.config) if self.config else {}

    @cached_property
    def curves(self) -> Curves | None:
        """What was logged; raises ValueError for a damaged file."""
        texts = []
        for file in sorted(self.path.glob(SCALARS)):
            with naming(file):
                texts.append(file.read_text(encoding='utf-8'))
                _read_lines(texts[-1])
        return read_curves(texts) if texts else None


def read_curves(texts: list[str]) -> Curves:
    """Read the numbers that mmengine's local backend has logged, a JSON object a line.

    Args:
        texts: A text for each start of the run, in order; where one begins, it replaces what came later before.

    Raises:
        ValueError: A line but the last is no JSON object: that of a killed run may be cut.
    """
    train: dict[str, list[tuple[float, float]]] = {}
    val: dict[str, list[tuple[float, float]]] = {}
    for text in texts:
        now, begin = 0.0, None
        for row in _read_lines(text):
            of_step = 'iter' in row
            if of_step:
                now = row['iter']
                if begin is None:
                    begin = now
                    train, val = _before(train, begin), _before(val, begin)
            # A validation is logged by its epoch or its iteration; it comes after the last step before it.
            at = now if of_step else max(now, row.get('step', 0.0))
            for name in row.keys() - _LEFT_OUT:
                (train if of_step else val).setdefault(name, []).append((at, row[name]))
    return Curves(*({name: curves[name] for name in sorted(curves) if curves[name]} for curves in (train, val)))


def _before(curves: Mapping[str, list[tuple[float, float]]], begin: float) -> dict[str, list[tuple[float, float]]]:
    return {name: [point for point in points if point[0] < begin] for name, points in curves.items()}


def _read_lines(text: str) -> list[dict[str, float]]:
    rows, lines = [], text.splitlines()
    for place, line in enumerate(lines):
        try:
            row = parse_json(line)
        except ValueError as error:
            if place == len(lines) - 1:
                continue
            raise ValueError(f'line {place + 1} is no JSON') from error
        if not isinstance(row, dict):
            raise ValueError(f'line {place + 1} holds no object')
        numbers = {str(k): float(v) for k, v in row.items()
                   if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= LARGEST}
        rows.append(numbers)
    return rows


def read_settings(text: str) -> dict[str, Any]:
    """Return the literals that a config assigns at its top: numbers, texts, lists and ``dict(...)`` of these.

    Args:
        text: A dumped config; nothing of it is run, and what is no literal is left out.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = _literal(node.value)
            except (ValueError, RecursionError, TypeError):
                continue
    return found


def _read_settings_of(path: Path) -> dict[str, Any]:
    return read_settings(path.read_text(encoding='utf-8', errors='replace'))


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_literal(key)): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)


def dig(settings: Any, path: str) -> Any:
    """Return ``settings['a']['b']`` for ``'a.b'``, or None."""
    for name in path.split('.'):
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings
