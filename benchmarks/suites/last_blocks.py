"""LoRA in the last blocks of a vision transformer alone: what a step costs, and an epoch from tokens that are kept."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmlora.models import split_backbone

from ..core import Case, Comparison, Growth
from ..targets import Target
from .step import BASE, CLASSES, TINY, Classifier, Gradients, Size, Source, by_mmlora, source, training

ABOUT = """
LoRA of rank 8 on q and v of the last 12, 4 and 1 of the 12 blocks of ViT-B/16. Below the first adapted block autograd
has no graph, so that a step saves the gradient of the blocks below, and what they would keep for it. Only the last
block has a change here, so that all compute the same. Then an epoch over images that are not augmented, with LoRA in
the last block: the whole backbone in each step, or from its tokens below that block, kept from a first pass with
`mmlora.models.split_backbone`; and that first pass with the epoch, which is the first one. The targets are aims: 15 %
over a step's share by the number of blocks, 30 % over the memory's, and four times as fast in the epochs after the
first. See also [performance](performance.md).
"""

WHOLE, KEPT, FIRST = 'the whole backbone', 'from kept tokens', 'encoding, and an epoch from kept tokens'


def by_blocks(size: Size, counts: tuple[int, ...], batch: int, device: torch.device, rounds: int) -> Comparison:
    """Return a step with LoRA in the last blocks, for several numbers of them, the smallest last."""
    given = source(size)
    quiet = [{name: (a, torch.zeros_like(b)) for name, (a, b) in own.items()} for own in given.factors[:-1]]
    given = replace(given, factors=[*quiet, given.factors[-1]])
    images = torch.randn(batch, 3, size.image, size.image, generator=torch.Generator().manual_seed(1)).to(device)
    amp = device.type == 'cuda'
    ends = tuple(f' in block {i}' for i in range(size.depth - counts[-1], size.depth))

    def made(count: int) -> tuple[nn.Module, Gradients]:
        model, gradients = by_mmlora(given, count)  # Compared are the gradients in the blocks that all have adapted.
        return model, lambda: {name: tensor for name, tensor in gradients().items() if name.endswith(ends)}

    cases = [training(f'last {count}', made(count), images, amp) for count in counts]
    first, last = cases[0].name, cases[-1].name
    # Forward and backward of a block take about the same time.
    share = (1 + counts[-1] / counts[0]) / 2
    goals = [Target(last, first, 1.15 * share), Target(last, first, 1.3 * counts[-1] / counts[0], 'kept')]
    title = f'{size.name}, batch {batch}: a training step with LoRA in the last blocks'
    return Comparison(title, cases, first, last, 2e-2 if amp else 1e-4, rounds=rounds, warm_up=1, targets=goals)


def epoch(
    name: str,
    model: nn.Module,
    batches: list[Tensor],
    labels: Tensor,
    named: dict[str, Tensor],
    encode: Callable[[Tensor], Tensor] = lambda batch: batch,
) -> Case:
    """Return an epoch of SGD without a rate, which leaves the weights as they are, as a case.

    Args:
        name: Of the case.
        model: Gives logits.
        batches: Inputs of ``encode``.
        labels: Of each batch.
        named: What is learned.
        encode: Makes the inputs of the model of a batch, all of them before the first step.
    """
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def run() -> None:
        for batch in [encode(batch) for batch in batches]:
            F.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    def results() -> dict[str, Tensor]:
        logits = model(encode(batches[0]))
        F.cross_entropy(logits, labels).backward()
        found = {key: tensor.grad.clone() for key, tensor in named.items()}
        optimizer.zero_grad()
        return {'the logits': logits.detach(), **found}

    return Case(name, run, results, lambda: model(encode(batches[0])), lambda: [*batches, *model.parameters()])


def from_tokens(given: Source, batch: int, steps: int, device: torch.device, rounds: int) -> Comparison:
    """Return an epoch with the whole backbone, and one from kept tokens, with LoRA in the last block."""
    size = given.size
    model, _ = by_mmlora(given, 1)
    model.to(device).train()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(batch, 3, size.image, size.image, generator=generator).to(device) for _ in range(steps)]
    labels = torch.arange(batch, device=device) % CLASSES
    prefix, rest = split_backbone(model.backbone)
    tokens = [prefix(batch) for batch in images]
    short = Classifier(rest, model.head).to(device)
    short.head = model.head
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    cases = [epoch(WHOLE, model, images, labels, named), epoch(KEPT, short, tokens, labels, named),
             epoch(FIRST, short, images, labels, named, prefix)]
    each = tokens[0][0].numel() * tokens[0].element_size() / 2**20
    title = f'{size.name}, LoRA in the last block: an epoch of {steps} steps of {batch} images'
    note = f'The kept tokens take {each:.2g} MiB for each image. The target is of the epochs after the first one.'
    return Comparison(title, cases, WHOLE, WHOLE, 1e-4, note, rounds, warm_up=1,
                      targets=[Target(KEPT, WHOLE, 1 / 4)])


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare numbers of blocks, and an epoch with and without kept tokens."""
    size, counts = (TINY, (2, 1)) if quick else (BASE, (12, 4, 1))
    batch, rounds = (2, 2) if quick else (64 if device.type == 'cuda' else 4, 3)
    yield by_blocks(size, counts, batch, device, rounds)
    yield from_tokens(source(size), batch, 2, device, rounds)
