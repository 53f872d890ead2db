"""The largest singular value: Gram matrix and one eigenvalue, against the full decomposition."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mmlora.ranks import spectrum, stable_rank

from ..core import Case, Comparison

ABOUT = """
The stable rank of each weight that SR-LoRA asks for, which needs the largest singular value alone: Gram matrix and one
eigenvalue, against the full decomposition of the published script and `svdvals`; see [ranks](ranks.md#cost).
"""


def by_svd(weight: Tensor) -> float:
    """Return the stable rank as the published code computes it."""
    values = np.linalg.svd(weight.cpu().numpy(), compute_uv=False)
    return float((values**2).sum() / values[0] ** 2)


def by_gram(weight: Tensor) -> float:
    """Return the stable rank as this package computes it."""
    return stable_rank(spectrum(weight))


WAYS = {'full SVD': by_svd, 'Gram (ours)': by_gram}


def suite(device: torch.device, quick: bool) -> Iterator[Comparison]:
    """Compare both on the weights of a block of ViT-B/16, drawn with a falling spectrum."""
    width = 16 if quick else 768
    for name, rows in (('qkv', 3 * width), ('proj', width), ('fc1', 4 * width)):
        torch.manual_seed(0)
        weight = (torch.randn(rows, width) * torch.arange(1, width + 1) ** -0.5).to(device)
        cases = [
            Case(
                way,
                lambda function=function, weight=weight: function(weight),
                lambda function=function, weight=weight: {'the stable rank': torch.tensor(function(weight))},
            )
            for way, function in WAYS.items()
        ]
        title = f'Stable rank of {name}, {rows} x {width}'
        # The full decomposition runs in the float32 of the weights; the difference is its rounding.
        yield Comparison(title, cases, 'Gram (ours)', 'full SVD', 1e-5, rounds=2 if quick else 7)
