"""Which letters of Glyphs are kept from the pre-training of a CLIP: combinations of a known letter and a known mark.

LATIN SMALL LETTER S WITH ACUTE is a combination of the letter LATIN LETTER S and the mark ACUTE. The rule, on the
letters of the split train whose names have WITH:

1. Names that differ in CAPITAL or SMALL alone are one combination, so that no other case gives it away.
2. A combination qualifies if what stands before WITH in each of its names is another name that is left for training,
   or stands before WITH in one, and if at least :data:`MIN_MARKS` other names that are left have just its mark.
3. Combinations are visited in the order in which the split lists their first letters. Every :data:`EVERY`-th of those
   that qualify is held out, unless one that was held out before would not qualify any more.
4. Of the combinations that are held out every :data:`VAL_EVERY`-th, from the first, is for validation, the others are
   for tests.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

EVERY = 5
MIN_MARKS = 2
VAL_EVERY = 3
_WITH = ' WITH '
Combination = tuple[str, ...]


def parse_combination(name: str) -> tuple[str, str] | None:
    """Return what stands before and behind WITH in a name, or None where it has no WITH."""
    base, found, mark = name.partition(_WITH)
    return (base, mark) if found else None


def find_combinations(names: Iterable[str]) -> list[Combination]:
    """Return the combinations among names, in the order of their first names."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        parts = parse_combination(name)
        if parts:
            letter = parts[0].replace(' CAPITAL ', ' ').replace(' SMALL ', ' ')
            groups.setdefault((letter, parts[1]), []).append(name)
    return [tuple(group) for group in groups.values()]


def qualifies(combination: Combination, left: Collection[str]) -> bool:
    """Say whether the letters and the mark of a combination all occur in other names.

    Args:
        combination: Names with one mark.
        left: All names that are left for training; those of the combination itself do not count.
    """
    others = [name for name in left if name not in combination]
    bases = {name.partition(_WITH)[0] for name in others}
    mark = parse_combination(combination[0])[1]
    marked = sum(name.partition(_WITH)[2] == mark for name in others)
    return marked >= MIN_MARKS and all(parse_combination(name)[0] in bases for name in combination)


def hold_out(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Choose the names that are kept from training.

    Args:
        names: All names of the split train, in its order.

    Returns:
        Those for validation and those for tests.
    """
    left, held, count = set(names), [], 0
    for combination in find_combinations(names):
        if not qualifies(combination, left):
            continue
        count += 1
        rest = left.difference(combination)
        if count % EVERY == 0 and all(qualifies(other, rest) for other in held):
            held.append(combination)
            left = rest
    parts = [held[::VAL_EVERY], [other for i, other in enumerate(held) if i % VAL_EVERY]]
    chosen = [{name for combination in part for name in combination} for part in parts]
    return tuple([name for name in names if name in part] for part in chosen)


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the words and punctuation marks of texts, in small letters, each once, in alphabetical order."""
    return sorted({word.lower() for text in texts for word in re.findall(r'\w+|[^\w\s]', text)})


def combinations_document(names: Sequence[str], command: str) -> dict[str, Any]:
    """Write down the combinations as plain data.

    Args:
        names: All names of the split train, in its order.
        command: The command that makes the file.
    """
    val, test = hold_out(names)
    return {
        'about': 'letters of the split train that pre-training on combinations does not see; '
                 'val is for choices, test for one final report',
        'command': command,
        'rule': f'every {EVERY}th combination of a letter and a mark, both cases together, whose letter occurs in '
                f'another name and whose mark in {MIN_MARKS}; every {VAL_EVERY}rd of them is for validation',
        'val': val,
        'test': test,
    }
