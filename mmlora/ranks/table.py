"""The rank table: which module gets which rank, why, and from which weights."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..fused import layout_of
from ..plain_json import parse_json
from .nested import Rank

FORMAT = 'mmlora.ranks/1'


@dataclass(frozen=True)
class RankRow:
    """One module of a rank table, or one slice of a fused projection.

    Attributes:
        module: Name without wrapper prefixes and without ``.weight``.
        rank: Rank of the change; on a fused qkv without ``slice`` that of each adapted slice.
        criterion: Name of the criterion, or ``manual`` where a person chose.
        value: Value of the criterion before rounding; for scores of components the sum of those that were taken.
        sigma1: Largest singular value of the weight.
        fro: Frobenius norm of the weight.
        params: Learned parameters that the rank costs.
        slice: Name of the slice whose rank this is, or '' for the whole module.
    """

    module: str
    rank: int
    criterion: str = 'manual'
    value: float | None = None
    sigma1: float | None = None
    fro: float | None = None
    params: int | None = None
    slice: str = ''

    def __post_init__(self) -> None:
        """Check the row.

        Raises:
            ValueError: The module is no name, the rank is no whole number of at least 0, or the slice is none of the
                module's.
        """
        if not isinstance(self.module, str) or not self.module:
            raise ValueError(f'a rank table needs module names, got {self.module!r}')
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise ValueError(f'rank of {self.module} must be a whole number of at least 0, got {self.rank!r}')
        for name in ('value', 'sigma1', 'fro', 'params'):
            if not isinstance(getattr(self, name), float | int | None):
                raise ValueError(f'{name} of {self.module} must be a number, got {str(getattr(self, name))[:100]!r}')
        if not isinstance(self.slice, str) or not isinstance(self.criterion, str):
            raise ValueError(f'slice and criterion of {self.module} are names, got {str(self.slice)[:100]!r} and '
                             f'{str(self.criterion)[:100]!r}')
        if self.slice and self.slice not in layout_of(self.module):
            raise ValueError(f'{self.module} has the slices {layout_of(self.module)}, got {self.slice!r}')

    @property
    def label(self) -> str:
        """Module and slice for people."""
        return f'{self.module} {self.slice}' if self.slice else self.module

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; ``slice`` is left out where there is none."""
        data = asdict(self)
        return data if self.slice else {k: v for k, v in data.items() if k != 'slice'}


@dataclass(frozen=True)
class RankTable:
    """Ranks of a model's modules, in the order of the model.

    Attributes:
        rows: One row for each module, or for each adapted slice of one.
        source: Where the weights came from, as text for people.
        sha256: Hash of the source weights' bytes, or None where there are none.
        budget: The budget that was asked for, or None.
    """

    rows: tuple[RankRow, ...]
    source: str = ''
    sha256: str | None = None
    budget: dict[str, float] | None = field(default=None)

    @property
    def ranks(self) -> dict[str, Rank]:
        """``{module: rank}`` in order; the rank of a module with rows for its slices is ``{slice: rank}``."""
        ranks: dict[str, Rank] = {}
        for row in self.rows:
            if row.slice:
                ranks.setdefault(row.module, {})[row.slice] = row.rank
            else:
                ranks[row.module] = row.rank
        return ranks

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON and for a checkpoint."""
        return {
            'format': FORMAT,
            'source': self.source,
            'sha256': self.sha256,
            'budget': self.budget,
            'rows': [row.to_dict() for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = 'rank table') -> 'RankTable':
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: The data are no rank table; the first fault is named.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get('rows'), (list, tuple)) or not data['rows']:
            raise ValueError(f'{where} holds no list "rows"; is it a ranks.json?')
        known = set(RankRow.__dataclass_fields__)
        rows = []
        for i, row in enumerate(data['rows']):
            if not isinstance(row, Mapping) or not {'module', 'rank'} <= set(row):
                raise ValueError(f'{where}: row {i} needs "module" and "rank", got {str(row)[:200]}')
            try:
                rows.append(RankRow(**{k: v for k, v in row.items() if k in known}))
            except ValueError as error:
                raise ValueError(f'{where}: row {i}: {error}') from error
        labels = [row.label for row in rows]
        whole = {row.module for row in rows if not row.slice}
        double = {label for label, count in Counter(labels).items() if count > 1}
        double |= {row.label for row in rows if row.slice and row.module in whole}
        if double:
            raise ValueError(f'{where} names modules more than once: {sorted(double)[:5]}')
        for name, kind in (('budget', Mapping), ('sha256', str), ('source', str)):
            if data.get(name) is not None and not isinstance(data[name], kind):
                raise ValueError(f'{where}: {name} is {str(data[name])[:100]!r}, where {kind.__name__} or null belongs')
        budget = data.get('budget')
        return cls(tuple(rows), data.get('source') or '', data.get('sha256'), dict(budget) if budget else None)

    def dumps(self) -> str:
        """Return the table as JSON."""
        return json.dumps(self.to_dict(), indent=1) + '\n'

    @classmethod
    def load(cls, path: str | Path) -> 'RankTable':
        """Read a ``ranks.json``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no rank table.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'no rank table at {path}')
        try:
            data = parse_json(path.read_text(encoding='utf-8'))
        except ValueError as error:
            raise ValueError(f'{path} is not JSON: {error}') from error
        return cls.from_dict(data, str(path))

    def __str__(self) -> str:
        def number(x: float | None) -> str:
            if x is None or math.isnan(x):
                return '-'
            return f'{x:.3f}' if x == 0 or abs(x) >= 0.001 else f'{x:.2e}'

        width = max([len('module'), *(len(row.label) for row in self.rows)])
        lines = [f'{"module":<{width}}  rank  {"value":>9}  {"sigma1":>9}  {"fro":>9}  {"params":>10}']
        for row in self.rows:
            params = '-' if row.params is None else f'{row.params:,}'
            lines.append(
                f'{row.label:<{width}}  {row.rank:>4}  {number(row.value):>9}  {number(row.sigma1):>9}  '
                f'{number(row.fro):>9}  {params:>10}'
            )
        total = sum(row.params or 0 for row in self.rows)
        criteria = ', '.join(sorted({row.criterion for row in self.rows}))
        mean = sum(row.rank for row in self.rows) / len(self.rows)
        what = 'slices and modules' if any(row.slice for row in self.rows) else 'modules'
        lines.append(f'{len(self.rows)} {what}, criterion {criteria}, mean rank {mean:.2f}, {total:,} parameters')
        return '\n'.join(lines)
