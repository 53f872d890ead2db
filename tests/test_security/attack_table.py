"""All attacks in one table.

``PYTHONPATH=tests python tests/test_security/attack_table.py`` prints how many there are of each kind, for
docs/reliability.md.
"""

from collections import Counter

from attack_files import archives, pickles, safetensors
from attack_folders import configs, not_finite
from attack_lists import images, jsons, lists
from attack_readers import readers, texts

GROUPS = (pickles, readers, texts, archives, safetensors, configs, not_finite, lists, jsons, images)
ATTACKS = [attack for group in GROUPS for attack in group()]


def table() -> str:
    """Return how many attacks there are of each kind, in Markdown."""
    counts = Counter(attack.kind for attack in ATTACKS)
    rows = [f'| {kind} | {count} |' for kind, count in counts.items()]
    return '\n'.join(['| attack | ways |', '|---|---|', *rows, f'| all | {len(ATTACKS)} |'])


if __name__ == '__main__':
    print(table())
