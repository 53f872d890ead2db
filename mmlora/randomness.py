"""Randomness that is derived, not captured.

Every random draw of a run is a pure function of a few numbers: the run's seed and where the draw happens (iteration and
rank for a step, epoch and index for a sample). No generator's state is ever saved, so that a run that was killed and
resumed draws what the uninterrupted run draws, in worker processes too.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Derive a seed from a tuple of numbers and names, the same on every machine and in every process.

    Begin with a name for the purpose (``'step'``, ``'sample'``), so that two purposes never share a stream.

    Args:
        *parts: What the draw depends on. ``1`` and ``'1'`` are different parts.

    Returns:
        A number from 0 to 2**63 - 1. numpy's legacy generators take 32 bits only: give them ``seed % 2**32``.

    Raises:
        TypeError: A part is neither a whole number nor text.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            text = f's{part}'
        elif isinstance(part, int | np.integer):
            text = f'i{int(part)}'
        else:
            raise TypeError(f'a seed is derived from whole numbers and text, got {part!r} of {type(part).__name__}')
        data = text.encode()
        digest.update(len(data).to_bytes(8, 'big') + data)
    return int.from_bytes(digest.digest(), 'big') >> 1


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, those of every accelerator included.

    Args:
        seed: From 0 to 2**63 - 1, all bits of which count.
    """
    _seed_numpy_and_python(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators inside a ``with`` block and give them back as they were.

    Generators of accelerators are left alone, as data is prepared on the CPU.

    Args:
        seed: As for :func:`seed_all`.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed_numpy_and_python(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_numpy_and_python(seed: int) -> None:
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
