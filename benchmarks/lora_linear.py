"""Time one training step of a fused qkv: frozen, with LoRA on q and v, with the dense change, and fully trained.

Usage: ``python benchmarks/lora_linear.py [--dim 768] [--rank 8] [--batch 8] [--tokens 197]``. The ways alternate
within one run, the best time of each counts, and ratios are what to read: machines are noisy.
"""

import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import mmlora  # noqa: F401
from mmlora.adapters import SlicedLoRALinear


class DenseChange(SlicedLoRALinear):
    """The same layer, but with the change formed as a matrix in each step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply ``W + delta``."""
        return F.linear(x, self.weight + self.delta(), self.bias)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (('dim', 768), ('rank', 8), ('batch', 8), ('tokens', 197), ('repeats', 7)):
        parser.add_argument(f'--{name}', type=int, default=default)
    args = parser.parse_args()
    d = args.dim
    frozen = nn.Linear(d, 3 * d).requires_grad_(False)
    ways = {
        'frozen': frozen,
        'LoRA on q and v': SlicedLoRALinear(d, 3 * d, args.rank),
        'the same, dense change': DenseChange(d, 3 * d, args.rank),
        'fully trained': nn.Linear(d, 3 * d),
    }
    x = torch.randn(args.batch, args.tokens, d)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, layer in ways.items():
            leaf = x.clone().requires_grad_()
            start = time.perf_counter()
            layer(leaf).sum().backward()
            times[name].append(1000 * (time.perf_counter() - start))
    base = min(times['frozen'])
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, rank {args.rank}, best of {args.repeats}')
    print('| forward and backward | ms | ratio to frozen |')
    print('|---|---|---|')
    for name, spent in times.items():
        print(f'| {name} | {min(spent):.1f} | {min(spent) / base:.2f} |')


if __name__ == '__main__':
    main()
