"""Which classes learned tensors with a row for each class belong to, so that other classes are told from them."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Sequence

import torch
import torch.nn as nn


def class_keys(classes: Sequence[str]) -> list[int]:
    """Return a number of 63 bits for each name, from its hash; underscores count as spaces."""
    digests = (hashlib.sha256(name.replace('_', ' ').encode()).digest() for name in classes)
    return [int.from_bytes(digest[:8], 'big') >> 1 for digest in digests]


class KnownClasses(nn.Module):
    """The names of the classes that were trained, as numbers that a checkpoint holds.

    The buffer ``keys`` ``(C,)`` holds 0 where nothing has been trained yet.

    Args:
        count: Number of classes.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer('keys', torch.zeros(count, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def empty(self) -> bool:
        """Whether nothing has been trained yet."""
        return not bool(self.keys.any())

    def check_count(self, classes: Sequence[str]) -> None:
        """Check that there is a row for each class.

        Raises:
            ValueError: There are more or fewer.
        """
        if len(classes) != len(self):
            raise ValueError(
                f'the model has rows for {len(self)} classes, and there are {len(classes)} names: build it with '
                f'num_classes={len(classes)}. mmlora.apis.train, which tools/train.py calls, takes the number from the '
                'data'
            )

    def learn(self, classes: Sequence[str]) -> None:
        """Take the names of the classes that are trained.

        Raises:
            ValueError: They are not as many as there are rows.
        """
        self.check_count(classes)
        self.keys.copy_(torch.tensor(class_keys(classes)))

    def forget(self) -> None:
        """Begin anew."""
        self.keys.zero_()

    def rows_of(self, classes: Sequence[str]) -> list[int]:
        """Return the row of each class, or -1 for one that was not trained.

        A name that several classes share stands for their rows in turn.
        """
        rows: dict[int, deque[int]] = defaultdict(deque)
        for row, key in enumerate(self.keys.tolist()):
            rows[key].append(row)
        return [rows[key].popleft() if rows[key] else -1 for key in class_keys(classes)]


def check_class_count(count: int | None) -> int:
    """Return the number of classes, 0 for None.

    Raises:
        ValueError: It is no whole number of at least 1, or None.
    """
    if count is None:
        return 0
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f'num_classes must be a whole number of at least 1, or None, got {count!r}')
    return count
