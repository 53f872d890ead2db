"""The largest singular value: Gram matrix and one eigenvalue, against the decompositions, and two passes over W."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmlora.ranks import spectrum, stable_rank

from ..core import Case, Comparison, Growth
from ..targets import Target

ABOUT = """
The stable rank of each weight, from which SR-LoRA takes its ranks, and which needs the largest singular value alone:
Gram matrix and one eigenvalue in float64 (ours), against all singular values as the published script computes them
(NumPy, in the float32 of the weights) and as PyTorch does; see [ranks](ranks.md#cost). Compared are the stable ranks
and the integers that they are rounded to. *Two passes over W*, a product with one vector from each side, are the
floor: what one step of a power iteration costs that reads the weight as it is. Ours reads it once to multiply it with
itself, which is bound by arithmetic and not by memory: an exact value takes `width` such passes at worst, and the Gram
matrix is cheaper than that. The targets are aims: 1.8 times as fast on a square weight and on all, twice on the taller
ones.
"""

OURS, PUBLISHED, TORCH, FLOOR = 'Gram (ours)', 'all values, NumPy (published)', 'svdvals', 'two passes over W'


def by_svd(weight: Tensor) -> float:
    """Return the stable rank as the published code computes it."""
    values = np.linalg.svd(weight.cpu().numpy(), compute_uv=False)
    return float((values**2).sum() / values[0] ** 2)


def by_svdvals(weight: Tensor) -> float:
    """Return the stable rank from the singular values of PyTorch."""
    values = torch.linalg.svdvals(weight)
    return float(values.square().sum() / values[0].square())


def by_gram(weight: Tensor) -> float:
    """Return the stable rank as this package computes it."""
    return stable_rank(spectrum(weight))


def two_passes(weight: Tensor) -> float:
    """Multiply with a vector from the right, and with the result from the left."""
    once = weight @ weight.new_ones(weight.shape[1])
    return float((once @ weight)[0])


WAYS: dict[str, Callable[[Tensor], float]] = {PUBLISHED: by_svd, TORCH: by_svdvals, OURS: by_gram, FLOOR: two_passes}


def drawn(rows: int, columns: int, device: torch.device, seed: int = 0) -> Tensor:
    """Return a weight with a falling spectrum."""
    generator = torch.Generator().manual_seed(seed)
    narrow = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    weight = narrow * torch.arange(1, narrow.shape[1] + 1) ** -0.5
    return (weight if rows >= columns else weight.T.contiguous()).to(device)


def side_by_side(title: str, weights: Sequence[Tensor], names: Sequence[str], faster: float, rounds: int) -> Comparison:
    """Return ways to find the stable ranks of weights.

    Args:
        title: Headline.
        weights: The weights.
        names: The ways.
        faster: How many times faster than the published one ours is to be.
        rounds: Number of rounds.
    """
    def results(way: Callable[[Tensor], float]) -> dict[str, Tensor]:
        found = torch.tensor([way(weight) for weight in weights], dtype=torch.float64)
        return {'the stable ranks': found, 'the integers': found.round()}

    cases = [Case(name, lambda way=WAYS[name]: [way(weight) for weight in weights],
                  None if name == FLOOR else lambda way=WAYS[name]: results(way)) for name in names]
    # The decompositions run in the float32 of the weights; the difference is their rounding.
    return Comparison(title, cases, FLOOR, PUBLISHED, 1e-5, rounds=rounds, warm_up=1 if len(weights) == 1 else 0,
                      targets=[Target(OURS, PUBLISHED, 1 / faster)], peaks=len(weights) == 1)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare on single weights of ViT-B/16 and on all of them, and let the width grow."""
    width, blocks = (16, 2) if quick else (768, 12)
    shapes = {'qkv': (3 * width, width), 'proj': (width, width), 'fc1': (4 * width, width), 'fc2': (width, 4 * width)}
    for name in ('proj', 'qkv', 'fc1'):
        title = f'Stable rank of {name}, {shapes[name][0]} x {shapes[name][1]}'
        yield side_by_side(title, [drawn(*shapes[name], device)], list(WAYS), 1.8 if name == 'proj' else 2.0,
                           2 if quick else 5)
    every = [drawn(*shape, device, seed) for seed in range(blocks) for shape in shapes.values()]
    yield side_by_side(f'All {len(every)} weights of {"a small ViT" if quick else "ViT-B/16"}', every,
                       [PUBLISHED, OURS, FLOOR], 1.8, 1)
    sizes = (8, 16) if quick else (192, 384, 768, 1536)
    grown = {n: Case(f'width {n}', partial(by_gram, drawn(n, n, device))) for n in sizes}
    yield Growth('Gram (ours), a square weight', 'width', grown, 2 if quick else 3)
