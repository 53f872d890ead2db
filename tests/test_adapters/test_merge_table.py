"""Every row of the table of merges."""

import pytest
from merge_cycles import KINDS, LAYERS
from merge_table import CASES, table

from mmlora.adapters import KINDS as REGISTERED
from mmlora.adapters import AdaptedLayer, LowRankLinear

GROUPS = {}
for case in CASES:
    GROUPS.setdefault((case.group, case.name.split(',')[0]), []).append(case)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr('os.fsync', lambda descriptor: None)  # Nothing here is about power that fails.


@pytest.mark.parametrize('rows', GROUPS.values(), ids=[' '.join(key) for key in GROUPS])
def test_rows(rows):
    for row in rows:
        try:
            row.check()
        except AssertionError as error:
            raise AssertionError(f'{row.group}: {row.name}') from error


def test_the_page_has_the_counts(root):
    assert table() in (root / 'docs' / 'reliability.md').read_text(encoding='utf-8')


def below(cls):
    return {cls}.union(*map(below, cls.__subclasses__()))


def test_no_kind_is_left_out():
    assert {name for name, kind in REGISTERED.items() if isinstance(kind, type) and issubclass(kind, LowRankLinear)} | {
        'ssf'} == set(KINDS)
    tried = {type(build(True)[0]) for build in LAYERS.values()}
    bases = {base for cls in tried for base in cls.__mro__[1:]} - tried
    own = {cls for cls in below(AdaptedLayer) if cls.__module__.startswith('mmlora.')}
    assert own - bases == tried
