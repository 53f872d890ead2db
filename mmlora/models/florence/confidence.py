"""How sure a generated box is. Florence-2 itself gives no number."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Places = Sequence[Sequence[int]]


def ones(log_probabilities: Tensor, places: Places) -> list[float]:
    """Return 1 for each box, as the published test does."""
    return [1.0] * len(places)


def of_tokens(log_probabilities: Tensor, places: Places) -> list[float]:
    """Return the geometric mean of the probabilities of the tokens of each box."""
    return [log_probabilities[list(own)].mean().exp().item() for own in places]


def of_sequence(log_probabilities: Tensor, places: Places) -> list[float]:
    """Return the geometric mean of the probabilities of all tokens of the image, the same for each of its boxes."""
    return [log_probabilities.mean().exp().item()] * len(places)


CONFIDENCES: dict[str, Callable[[Tensor, Places], list[float]]] = {
    'one': ones, 'tokens': of_tokens, 'sequence': of_sequence,
}  # fmt: skip
"""Each takes log-probabilities of the tokens of an image, ``(T,)``, and the places of the tokens of each box."""


def token_log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability of each token, ``(B, T)``, from logits ``(B, T, V)`` of the same places."""
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens[..., None])[..., 0]
