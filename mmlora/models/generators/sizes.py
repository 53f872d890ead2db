"""Checks of the sizes that a config gives to networks."""

from typing import Any


def check_sizes(**sizes: Any) -> None:
    """Check that all are whole numbers of at least 1.

    Raises:
        ValueError: One is not; it is named.
    """
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f'{name} must be a whole number of at least 1, got {value!r}')
