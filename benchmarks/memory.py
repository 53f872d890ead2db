"""Bytes: what autograd keeps for the backward pass, and the most that a run allocates at a time."""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.profiler import profile

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # The profiler says on the terminal when it starts and stops.


def kept_bytes(forward: Callable[[], object], known: Sequence[Tensor] = ()) -> int:
    """Return the bytes that a forward pass keeps for the gradient, each storage once, without the known tensors'."""
    own, sizes = {tensor.untyped_storage().data_ptr() for tensor in known}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(sizes.values())


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that PyTorch hands out at a time during a run, beyond what was there before.

    On a GPU its allocator counts them. On a CPU the profiler sees each tensor made and freed, which makes the run
    slower but not other; what NumPy and the libraries of products take for themselves is not seen.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as profiled:
        run()
    found = [(e.start_ns(), e.nbytes()) for e in profiled.kineto_results.events() if e.name() == '[memory]']
    now = most = 0
    for _, size in sorted(found, key=lambda event: event[0]):
        now += size
        most = max(most, now)
    return most
