"""Stochastic partial update: which sub-rank a layer uses, and when it changes.

SR-LoRA (ICCV 2025, arXiv 2507.00327) draws m uniformly from 1..r for each layer. Here a draw is a pure function of a
number, and that of where the draw happens, so that all processes and a resumed run draw the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..randomness import derive_seed
from .sub_rank import SubRankLinear

_BITS = 63  # derive_seed gives numbers from 0 to 2**63 - 1


def uniform(number: int, rank: int) -> int:
    """Return m from 1..rank, each with the same probability."""
    return 1 + (number * rank >> _BITS)


def powers_of_two(number: int, rank: int) -> int:
    """Return m from 1, 2, 4, ... below rank, and rank itself, each with the same probability."""
    choices = [1 << i for i in range((rank - 1).bit_length())] + [rank]
    return choices[number * len(choices) >> _BITS]


DISTRIBUTIONS: dict[str, Callable[[int, int], int]] = {'uniform': uniform, 'powers_of_two': powers_of_two}
"""``(number from 0 to 2**63 - 1, rank) -> sub-rank``, increasing with the number."""


def draw_sub_ranks(number: int, ranks: Mapping[str, int], distribution: str = 'uniform') -> dict[str, int]:
    """Turn one number into a sub-rank of each slice of a layer.

    The slices share the number: slices of one rank get the same sub-rank, as published, and slices of different ranks
    about the same part of theirs.

    Args:
        number: From 0 to 2**63 - 1, as :func:`mmlora.randomness.derive_seed` gives it.
        ranks: Rank of each slice.
        distribution: A name in :data:`DISTRIBUTIONS`.
    """
    return {name: DISTRIBUTIONS[distribution](number, rank) for name, rank in ranks.items()}


class LayerDraws:
    """The draws of one layer in the iterations of a run.

    With activation checkpointing the backward pass runs ``forward`` again. That is no new draw: the layer keeps the
    sub-rank of the forward pass that is repeated.

    Args:
        layer: The layer.
        name: Its name, which the draws depend on.
        seed: What else they depend on, besides the iteration.
        distribution: A name in :data:`DISTRIBUTIONS`.
        **options: ``rows`` and ``detach_prefix`` of :meth:`SubRankLinear.use_sub_rank`.
    """

    def __init__(
        self, layer: SubRankLinear, name: str, seed: int, distribution: str = 'uniform', **options: Any
    ) -> None:
        self.layer = layer
        self.name = name
        self.seed = seed
        self.distribution = distribution
        self.options = options
        self._handle: torch.utils.hooks.RemovableHandle | None = None
        self._clear(0)

    @property
    def active_parameters(self) -> float:
        """Learned parameters in use, the mean over the draws of this iteration; 0 before the first."""
        return self._active / self._count if self._count else 0.0

    def begin(self, iteration: int, each_forward: bool = False) -> None:
        """Begin an iteration: draw for all of it, or from now on for each forward pass in training mode."""
        self.end()
        self._clear(iteration)
        if each_forward:
            self._handle = self.layer.register_forward_pre_hook(self._before_forward)
        else:
            self._draw()

    def end(self) -> None:
        """Give the layer its full rank back."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.layer.use_full_rank()

    def _clear(self, iteration: int) -> None:
        self._iteration = iteration
        self._count = self._active = 0
        self._pending, self._repeated = 0, False

    def _draw(self) -> None:
        number = derive_seed('spu', self.seed, self._iteration, self.name, self._count)
        ranks = draw_sub_ranks(number, self.layer.ranks, self.distribution)
        self.layer.use_sub_rank(ranks, **self.options)
        self._count += 1
        self._active += self.layer.parameters_at(ranks)

    def _before_forward(self, layer: SubRankLinear, args: Any) -> None:
        asked = layer.sub_rank is not None and layer.sub_rank.always
        if not layer.training or asked:
            return
        if torch._C._current_graph_task_id() != -1:  # Inside a backward pass.
            if self._pending != 1:
                raise RuntimeError(
                    f'activation checkpointing runs {self.name} again after {self._pending} forward passes, and which '
                    "of them it repeats cannot be known: use SPUHook(per='iteration')"
                )
            self._repeated = True
            return
        if self._repeated:
            self._pending, self._repeated = 0, False
        self._pending += 1
        self._draw()
