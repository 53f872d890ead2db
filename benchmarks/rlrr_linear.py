"""Time and memory of one training step of an RLRR layer, in the ways it can be computed.

Usage: ``python benchmarks/rlrr_linear.py [--repeats 7]``. The ways alternate within one run, the best time of each
counts, and ratios are what to read: machines are noisy. Memory is what one step allocates at its peak beyond what was
there before it, and what it keeps from the forward pass for the gradient beyond the input and the parameters.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import mmlora  # noqa: F401
from mmlora.adapters.rlrr import rescaled, rescaled_linear

SHAPES = {'ViT-B qkv, 32 images': (32 * 197, 768, 2304), 'small, 8 images': (8 * 65, 96, 288)}


def published(x: Tensor, w: Tensor, b: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Form the changed weight as the published code does."""
    return F.linear(x, w * s_in * s_out + w, b)


def weight_side(x: Tensor, w: Tensor, b: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Form the changed weight and let autograd keep it."""
    return F.linear(x, rescaled(w, s_out, s_in), b)


def two_products(x: Tensor, w: Tensor, b: Tensor, s_out: Tensor, s_in: Tensor) -> Tensor:
    """Scale the activations, and never the weight."""
    return torch.addcmul(F.linear(x, w, b), F.linear(x * s_in[0], w), s_out[:, 0])


WAYS = {
    'frozen': lambda x, w, b, s_out, s_in: F.linear(x, w, b),
    'as published': published,
    'two products': two_products,
    'changed weight, kept': weight_side,
    'changed weight, formed twice (ours)': rescaled_linear,
}


def kept(way: Callable[..., Tensor], args: list[Tensor]) -> int:
    """Return the bytes that the forward pass keeps for the gradient besides its arguments."""
    known, sizes = {a.untyped_storage().data_ptr() for a in args}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = way(*args)
    del out
    return sum(sizes.values())


def peak(way: Callable[..., Tensor], args: list[Tensor]) -> int:
    """Return the most bytes that a forward and backward pass has allocated at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(way, args)
    now = most = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == '[memory]':
            now += event.nbytes()
            most = max(most, now)
    return most


def step(way: Callable[..., Tensor], args: list[Tensor]) -> None:
    """Run forward and backward."""
    out = way(*args)
    torch.autograd.backward(out, torch.ones_like(out))
    for tensor in args:
        tensor.grad = None


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=7)
    repeats = parser.parse_args().repeats
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, best of {repeats}')
    print('| shape | forward and backward | ms | ratio to frozen | peak MB | kept MB |')
    print('|---|---|---|---|---|---|')
    for shape, (tokens, inputs, outputs) in SHAPES.items():
        args = [
            torch.randn(tokens, inputs, requires_grad=True),
            torch.randn(outputs, inputs),
            torch.randn(outputs, requires_grad=True),
            torch.randn(outputs, 1, requires_grad=True),
            torch.randn(1, inputs, requires_grad=True),
        ]
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(repeats):
            for name, way in WAYS.items():
                start = time.perf_counter()
                step(way, args)
                times[name].append(1000 * (time.perf_counter() - start))
        base = min(times['frozen'])
        for name, way in WAYS.items():
            memory = f'{peak(way, args) / 2**20:.1f} | {kept(way, args) / 2**20:.1f}'
            print(f'| {shape} | {name} | {min(times[name]):.1f} | {min(times[name]) / base:.2f} | {memory} |')


if __name__ == '__main__':
    main()
