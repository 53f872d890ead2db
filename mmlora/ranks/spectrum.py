"""The numbers that criteria read: the largest singular value and the Frobenius norm of a weight, or its whole spectrum.

The largest singular value is the root of the largest eigenvalue of the Gram matrix of the smaller side, in float64
throughout, since an error of 1e-4 can flip the rounding of a stable rank. One eigenvalue costs a fraction of the full
singular value decomposition that the published code computes. A criterion that needs all singular values gets them from
the decomposition itself, as the Gram matrix would lose the small ones.
"""

import hashlib
import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

READS = ('shape', 'norms', 'values')
"""What can be read from a weight, from cheap to dear: nothing but its shape, two numbers, all singular values."""

_ALL = '/values'


@dataclass(frozen=True)
class Spectrum:
    """Summary of the singular values of a weight.

    Attributes:
        sigma1: Largest singular value; None where only the shape was read.
        fro: Frobenius norm; None where only the shape was read.
        shape: Rows and columns of the weight.
        values: All singular values, descending; None where they were not asked for.
        module: Name of the weight.
    """

    sigma1: float | None
    fro: float | None
    shape: tuple[int, int]
    values: Sequence[float] | None = None
    module: str = ''


def largest_singular_value(weight: Tensor) -> float:
    """Return the largest singular value of a matrix ``(m, n)``, exact to about 1e-14 of its size."""
    from scipy.linalg import eigh  # its import is slow, and only a process that settles ranks needs it

    w = weight.detach().to('cpu', torch.float64).numpy()
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    last = gram.shape[0] - 1
    top = eigh(gram, eigvals_only=True, subset_by_index=[last, last], check_finite=False)
    return math.sqrt(max(float(top[0]), 0.0))


def singular_values(weight: Tensor) -> list[float]:
    """Return all singular values of a matrix in descending order, in float64."""
    return torch.linalg.svdvals(weight.detach().to('cpu', torch.float64)).tolist()


def frobenius_norm(weight: Tensor) -> float:
    """Return the Frobenius norm of a tensor, summed in float64."""
    return float(np.linalg.norm(weight.detach().to('cpu', torch.float64).numpy()))


def tensor_sha256(weight: Tensor) -> str:
    """Return the sha256 of a tensor's type, shape and bytes."""
    weight = weight.detach().to('cpu').contiguous()
    digest = hashlib.sha256(f'{weight.dtype} {tuple(weight.shape)} '.encode())
    digest.update(weight.view(torch.uint8).numpy() if weight.numel() else b'')
    return digest.hexdigest()


def spectrum(
    weight: Tensor, name: str = 'weight', cache: MutableMapping[str, list] | None = None, reads: str = 'norms'
) -> Spectrum:
    """Return the spectrum of a weight.

    Args:
        weight: A matrix ``(out, in)``.
        name: Its name, quoted in errors.
        cache: Results by the hash of the weight; read and filled.
        reads: What is needed, one of :data:`READS`; nothing dearer is computed.

    Raises:
        ValueError: The weight is no matrix, is zero, or holds values that are not finite.
    """
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f'{name} must be a matrix, got the shape {tuple(weight.shape)}')
    shape = tuple(weight.shape)
    if reads == 'shape':
        return Spectrum(None, None, shape, module=name)
    every = reads == 'values'
    key = tensor_sha256(weight) + (_ALL if every else '') if cache is not None else ''
    numbers = cache.get(key) if cache is not None else None
    if numbers is None:
        if not torch.isfinite(weight).all():
            raise ValueError(f'{name} holds values that are not finite, so that it has no stable rank')
        numbers = singular_values(weight) if every else [largest_singular_value(weight), frobenius_norm(weight)]
        if numbers[0] == 0:
            raise ValueError(f'{name} is all zero, so that it has no stable rank; is the checkpoint trained?')
        if cache is not None:
            cache[key] = numbers
    fro = float(np.linalg.norm(numbers)) if every else numbers[1]
    return Spectrum(numbers[0], fro, shape, numbers if every else None, name)


def product_spectrum(b: Tensor, a: Tensor) -> Spectrum | None:
    """Return the spectrum of ``B A`` without forming it, from the ``r x r`` core of two QR decompositions.

    Args:
        b: Left factor, ``(out, r)``.
        a: Right factor, ``(r, in)``.

    Returns:
        The spectrum, or None if the product is zero, as it is before the first step.
    """
    left = torch.linalg.qr(b.detach().to('cpu', torch.float64), mode='r').R
    right = torch.linalg.qr(a.detach().to('cpu', torch.float64).T, mode='r').R
    values = torch.linalg.svdvals(left @ right.T)
    if values.numel() == 0 or values[0] == 0:
        return None
    return Spectrum(float(values[0]), float(values.norm()), (b.shape[0], a.shape[1]))
