"""The task vector of ICM-LoRA: what the last layer of a tuned decoder holds while it answers.

"In-Context Meta LoRA Generation", IJCAI 2025, arXiv 2501.17635, in the form of the published code: for each of 30
training images the tuned model generates its answer with three beams, and the states of the last layer of the decoder
are averaged over all steps of all images, and then over the beams. So images with many boxes weigh more.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from torch import Tensor


@contextmanager
def decoder_states(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer gives for the last token, once for each step, within a ``with`` block.

    Args:
        layer: Gives ``(beams, T, D)``, with a cache ``(beams, 1, D)``.

    Yields:
        A list that fills with ``(beams, D)``.
    """
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        states.append(hidden[:, -1].detach().cpu())

    handle = layer.register_forward_hook(keep)
    try:
        yield states
    finally:
        handle.remove()


def mean_state(states: Iterable[Tensor]) -> Tensor:
    """Return the mean over steps and then over beams, ``(D,)``, of states ``(beams, D)``.

    Raises:
        ValueError: There is no state.
    """
    total, count = None, 0
    for state in states:
        total, count = state.double() if total is None else total + state, count + 1
    if total is None:
        raise ValueError('the model has generated nothing: there is no state to average')
    return (total / count).mean(dim=0).to(torch.float32)
