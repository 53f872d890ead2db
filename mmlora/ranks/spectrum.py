"""The numbers that every criterion reads: the largest singular value and the Frobenius norm of a weight.

The largest singular value is the root of the largest eigenvalue of the Gram matrix of the smaller side, in float64
throughout, since an error of 1e-4 can flip the rounding of a stable rank. One eigenvalue costs a fraction of the full
singular value decomposition that the published code computes.
"""

import hashlib
import math
from collections.abc import MutableMapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Summary of the singular values of a weight.

    Attributes:
        sigma1: Largest singular value.
        fro: Frobenius norm.
        shape: Rows and columns of the weight.
    """

    sigma1: float
    fro: float
    shape: tuple[int, int]


def largest_singular_value(weight: Tensor) -> float:
    """Return the largest singular value of a matrix ``(m, n)``, exact to about 1e-14 of its size."""
    w = weight.detach().to('cpu', torch.float64).numpy()
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    last = gram.shape[0] - 1
    top = eigh(gram, eigvals_only=True, subset_by_index=[last, last], check_finite=False)
    return math.sqrt(max(float(top[0]), 0.0))


def frobenius_norm(weight: Tensor) -> float:
    """Return the Frobenius norm of a tensor, summed in float64."""
    return float(np.linalg.norm(weight.detach().to('cpu', torch.float64).numpy()))


def tensor_sha256(weight: Tensor) -> str:
    """Return the sha256 of a tensor's type, shape and bytes."""
    weight = weight.detach().to('cpu').contiguous()
    digest = hashlib.sha256(f'{weight.dtype} {tuple(weight.shape)} '.encode())
    digest.update(weight.view(torch.uint8).numpy() if weight.numel() else b'')
    return digest.hexdigest()


def spectrum(weight: Tensor, name: str = 'weight', cache: MutableMapping[str, list] | None = None) -> Spectrum:
    """Return the spectrum of a weight.

    Args:
        weight: A matrix ``(out, in)``.
        name: Quoted in errors.
        cache: Results by the hash of the weight; read and filled.

    Raises:
        ValueError: The weight is no matrix, is zero, or holds values that are not finite.
    """
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f'{name} must be a matrix, got the shape {tuple(weight.shape)}')
    key = tensor_sha256(weight) if cache is not None else ''
    if cache is not None and key in cache:
        sigma1, fro = cache[key]
        return Spectrum(sigma1, fro, tuple(weight.shape))
    if not torch.isfinite(weight).all():
        raise ValueError(f'{name} holds values that are not finite, so that it has no stable rank')
    sigma1, fro = largest_singular_value(weight), frobenius_norm(weight)
    if sigma1 == 0:
        raise ValueError(f'{name} is all zero, so that it has no stable rank; is the checkpoint trained?')
    if cache is not None:
        cache[key] = [sigma1, fro]
    return Spectrum(sigma1, fro, tuple(weight.shape))


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
