"""All merges that are tested, in one table.

``PYTHONPATH=.:tests python tests/test_adapters/merge_table.py`` prints how many there are of each kind, for
docs/reliability.md.
"""

from collections import Counter

from merge_cases import differing, identities, libraries, named, rounded, saved
from merge_cycles import backbones, layers, moved, shared
from merge_peft import agreements, reports

CASES = [case for group in (identities, saved, differing, rounded, libraries, named, reports, agreements,
                             layers, backbones, shared, moved) for case in group()]


def table() -> str:
    """Return how many rows there are of each kind, in Markdown."""
    counts = Counter(case.group for case in CASES)
    rows = [f'| {group} | {count} |' for group, count in counts.items()]
    return '\n'.join(['| what holds | cases |', '|---|---|', *rows, f'| all | {len(CASES)} |'])


if __name__ == '__main__':
    print(table())
