"""Every row of the table of merges."""

import pytest
from merge_table import CASES, table

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
