"""The learned context of CoOp: where its vectors stand among the tokens of a prompt, and the vectors themselves.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134, section 3.2.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ....adapters import AddedModule

POSITIONS: dict[str, Callable[[int], int]] = {
    'end': lambda n_ctx: n_ctx,
    'middle': lambda n_ctx: n_ctx // 2,
    'front': lambda n_ctx: 0,
}
"""Where the name of the class stands -> how many vectors of the context come before it."""
STD = 0.02  # As published.


def lay_out(name: Sequence[int], ending: Sequence[int], n_ctx: int, before: int) -> list[int]:
    """Return a prompt without its start and end: tokens as they are, and vector j of the context as ``-1 - j``.

    Args:
        name: Tokens of the name.
        ending: Tokens behind the name or, if vectors follow it, behind those.
        n_ctx: Number of vectors.
        before: How many of them come before the name.
    """
    vectors = [-1 - j for j in range(n_ctx)]
    return [*vectors[:before], *name, *vectors[before:], *ending]


def insert_context(embedded: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """Return embedded prompts with the vectors of the context in their places.

    Args:
        embedded: ``(C, T, width)``.
        vectors: ``(n_ctx, width)``, or ``(C, n_ctx, width)`` with those of each class.
        slots: Which vector stands at a place, -1 for none, ``(C, T)``.

    Returns:
        ``(C, T, width)``.
    """
    chosen = slots.clamp(min=0)
    if vectors.ndim == 3:
        learned = vectors[torch.arange(len(vectors), device=vectors.device)[:, None], chosen]
    else:
        learned = vectors[chosen]
    return torch.where((slots >= 0)[..., None], learned, embedded)


class Context(AddedModule):
    """The learned vectors.

    Args:
        n_ctx: Their number.
        width: Width of the text tower.
        classes: Number of classes with vectors of their own; 0 for one context that all classes share.
    """

    def __init__(self, n_ctx: int, width: int, classes: int = 0) -> None:
        super().__init__()
        shape = (classes, n_ctx, width) if classes else (n_ctx, width)
        self.vectors = nn.Parameter(torch.empty(shape))
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """Draw the vectors from N(0, 0.02^2)."""
        nn.init.normal_(self.vectors, std=STD)

    @torch.no_grad()
    def start_from(self, embedded: Tensor) -> None:
        """Start from the embeddings of words ``(n_ctx, width)``, in all classes from the same."""
        self.vectors.copy_(embedded.expand_as(self.vectors))
