"""Time the largest singular value: Gram matrix and one eigenvalue, against the full decomposition.

Usage: ``python benchmarks/stable_rank.py [--dim 768] [--repeats 5]``. The methods alternate within one run, the best
time of each counts, and ratios are what to read: machines are noisy.
"""

import argparse
import time

import numpy as np
import torch

import mmlora  # noqa: F401
from mmlora.ranks import spectrum, stable_rank


def by_svd(weight: torch.Tensor) -> float:
    """Return the stable rank as the published code computes it."""
    values = np.linalg.svd(weight.numpy(), compute_uv=False)
    return float((values**2).sum() / values[0] ** 2)


def by_gram(weight: torch.Tensor) -> float:
    """Return the stable rank as this package computes it."""
    return stable_rank(spectrum(weight))


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--dim', type=int, default=768, help='width of the model')
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args()
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, best of {args.repeats}')
    print('| weight | full SVD, ms | Gram, ms | ratio | difference |')
    print('|---|---|---|---|---|')
    for name, rows in (('qkv', 3 * args.dim), ('proj', args.dim), ('fc1', 4 * args.dim)):
        torch.manual_seed(0)
        weight = torch.randn(rows, args.dim) * torch.arange(1, args.dim + 1) ** -0.5
        times: dict = {by_svd: [], by_gram: []}
        values = {}
        for _ in range(args.repeats):
            for method, spent in times.items():
                start = time.perf_counter()
                values[method] = method(weight)
                spent.append(1000 * (time.perf_counter() - start))
        svd, gram = (min(spent) for spent in times.values())
        difference = abs(values[by_svd] - values[by_gram]) / values[by_svd]
        print(f'| {name} {rows} x {args.dim} | {svd:.1f} | {gram:.1f} | {svd / gram:.2f} | {difference:.1e} |')


if __name__ == '__main__':
    main()
