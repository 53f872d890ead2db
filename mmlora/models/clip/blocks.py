"""Which blocks of a tower are adapted: by fractions of its depth, so that every depth has them all, or by numbers.

For depths that 3 divides they are those of the published code where that has them (12 blocks: bottom 0-3, mid 4-7, up
8-11, half-bottom 0-5, half-up 6-11, top3 9-11).
"""

from collections.abc import Callable, Iterable, Mapping

PRESETS: dict[str, Callable[[int], range]] = {
    'all': lambda depth: range(depth),
    'bottom': lambda depth: range(_third(depth)),
    'mid': lambda depth: range(_third(depth), depth - _third(depth)) if depth > 2 else range(depth),
    'up': lambda depth: range(depth - _third(depth), depth),
    'half-bottom': lambda depth: range(max(1, depth // 2)),
    'half-up': lambda depth: range(depth // 2, depth),
    'top': lambda depth: range(depth - 1, depth),
    'top1': lambda depth: range(depth - 1, depth),
    'top2': lambda depth: range(max(0, depth - 2), depth),
    'top3': lambda depth: range(max(0, depth - 3), depth),
}
"""Name -> the blocks of a tower of so many. A third is rounded down, but never empty."""

Layers = str | Iterable[int] | Mapping[str, str | Iterable[int]]


def _third(depth: int) -> int:
    return max(1, depth // 3)


def chosen_blocks(layers: Layers, depth: int, tower: str) -> tuple[int, ...]:
    """Return the numbers of the adapted blocks of a tower, ascending.

    Args:
        layers: A name in :data:`PRESETS`, numbers from 0, or either for each tower: ``dict(vision=..., text=...)``.
        depth: Number of blocks.
        tower: ``'vision'`` or ``'text'``.

    Raises:
        ValueError: The name is unknown, or a number is out of range or occurs twice, or there is none.
        TypeError: A number is not an integer.
    """
    if isinstance(layers, Mapping):
        if tower not in layers or set(layers) - {'vision', 'text'}:
            raise ValueError(f"layers must have an entry for {tower!r} and none but 'vision' and 'text', got {layers}")
        layers = layers[tower]
    if isinstance(layers, str):
        if layers not in PRESETS:
            raise ValueError(f'unknown layers {layers!r}: choose one of {sorted(PRESETS)} or give numbers')
        return tuple(PRESETS[layers](depth))
    numbers = list(layers)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f'the {tower} layers must be integers, got {number!r}')
        if not 0 <= number < depth:
            raise ValueError(f'the {tower} layers must lie in 0..{depth - 1}, got {number}')
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f'the {tower} layers must name at least one block, each once, got {numbers}')
    return tuple(sorted(numbers))
