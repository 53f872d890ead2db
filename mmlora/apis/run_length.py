"""How long a run trains, told by the number of images of each class.

``max_iters = dict(per_shot=500)`` is 500 iterations for each image of a class, so that ``shot=4`` alone makes a run of
2000. ``max_epochs = dict(from_shot_1=50, from_shot_2=100, from_shot_8=200)`` is a table: 100 epochs from 2 to 7 images.
A number in the place of either holds for every number of images.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_PER_SHOT, _FROM_SHOT = 'per_shot', re.compile(r'from_shot_(\d+)')


def is_length_rule(value: Mapping[str, Any]) -> bool:
    """Return whether the value of a variable is one of these rules."""
    return any(key == _PER_SHOT or _FROM_SHOT.fullmatch(str(key)) for key in value)


def length_of_run(name: str, rule: Mapping[str, Any], shot: int | None) -> int:
    """Return the length of a run by one of the rules.

    Args:
        name: The variable, for messages.
        rule: ``dict(per_shot=500)`` or ``dict(from_shot_1=50, from_shot_2=100)``.
        shot: Images of each class; None for all, which no rule is about.

    Returns:
        The number of iterations or epochs.

    Raises:
        ValueError: The rule is malformed, or it says nothing about this number of images.
    """
    kinds = [reader for fits, reader in _RULES if all(fits(str(key)) for key in rule)]
    if not kinds or not all(_whole(value) for value in rule.values()):
        raise ValueError(f'{name} = {dict(rule)} must be dict(per_shot=...), dict(from_shot_1=..., from_shot_8=...) or '
                         'a number, with whole numbers of at least 1')
    if shot is None:
        raise ValueError(f'{name} = {dict(rule)} is by the number of images of each class, and shot=None takes all: '
                         f'say how long to train, as in {name}=10000')
    if not _whole(shot):
        raise ValueError(f'{name} = {dict(rule)} needs a whole number of images of at least 1, got shot={shot!r}')
    return kinds[0](name, rule, shot)


def _per_shot(name: str, rule: Mapping[str, int], shot: int) -> int:
    return rule[_PER_SHOT] * shot


def _from_shot(name: str, rule: Mapping[str, int], shot: int) -> int:
    steps = {int(_FROM_SHOT.fullmatch(key)[1]): value for key, value in rule.items()}
    reached = [step for step in steps if step <= shot]
    if not reached:
        raise ValueError(f'{name} = {dict(rule)} says nothing about shot={shot}: add from_shot_{shot}=..., or give '
                         f'{name} a number')
    return steps[max(reached)]


_RULES: tuple[tuple[Callable[[str], Any], Callable[[str, Mapping[str, int], int], int]], ...] = (
    (lambda key: key == _PER_SHOT, _per_shot),
    (_FROM_SHOT.fullmatch, _from_shot),
)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
