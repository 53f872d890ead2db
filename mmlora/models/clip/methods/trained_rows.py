"""Which rows a method that knows its trained classes alone uses for the classes of a test."""

from collections.abc import Sequence

from .known_classes import KnownClasses


def rows_of_trained(known: KnownClasses, classes: Sequence[str] | None, what: str) -> list[int] | None:
    """Return the row of each class, or None where they are the trained ones in their order.

    Args:
        known: The trained classes.
        classes: Those that images are told apart into; None stands for the trained ones.
        what: Name of what was trained, for the error.

    Raises:
        ValueError: A class was not trained, there is no row at all, or names are unknown and of another number.
    """
    if not len(known):
        raise ValueError(f'{what} has no class: build the model with num_classes=..., which mmlora.apis.train (and '
                         'tools/train.py) takes from the data')
    if classes is None:
        return None
    if known.empty:  # trained outside of a run, which names classes
        known.check_count(classes)
        return None
    rows = known.rows_of(classes)
    unknown = [name for name, row in zip(classes, rows, strict=True) if row < 0]
    if unknown:
        raise ValueError(f'{what} was not trained on {len(unknown)} of {len(classes)} classes, the first: '
                         f'{unknown[:5]}. It tells apart none but its own; LoRACLIP and zero-shot CLIP take any names')
    return None if rows == list(range(len(known))) else rows
