"""Stochastic partial update: each step trains the first components of each low-rank change, as many as are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...adapters import DISTRIBUTIONS, sub_rank_layers
from ...adapters.spu import LayerDraws
from ...adapters.sub_rank import check_rows
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from .compile_hook import CompileHook

PER = ('iteration', 'forward')
SCALAR = 'train/active_parameters'


@register(HOOKS)
class SPUHook(Hook):
    """Train with a random sub-rank in each adapted layer (SR-LoRA's SPU, arXiv 2507.00327; DyLoRA, arXiv 2210.07558).

    Each draw is a pure function of (seed, iteration, name of the layer, number of the forward pass). So all processes
    draw the same, and so does a resumed run. The sub-ranks hold in training mode within an iteration; evaluation and
    checkpoints have the full rank.

    ``train/active_parameters`` in the message hub is the number of adapter parameters in use, the mean over the forward
    passes of the iteration.

    Args:
        per: ``'iteration'`` draws once for all forward passes of an iteration, ``'forward'`` for each of them.
        rows: Which rows of A the slices of a fused projection use; ``'reference'`` as the published code.
        detach_prefix: Whether only the last active component learns, as in the published code for the projection.
        distribution: A name in :data:`mmlora.adapters.DISTRIBUTIONS`.
        targets: Patterns that choose among the adapted layers, as for the injector; None means all. Several hooks may
            treat different layers in different ways.
        seed: The seed of the draws; by default that of the runner.

    Raises:
        ValueError: An argument is unknown.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        per: str = 'iteration',
        rows: str = 'per_group',
        detach_prefix: bool = False,
        distribution: str = 'uniform',
        targets: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        if per not in PER:
            raise ValueError(f'unknown per {per!r}: choose one of {list(PER)}')
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f'unknown distribution {distribution!r}: choose one of {sorted(DISTRIBUTIONS)}')
        check_rows(rows, {})
        self.per = per
        self.rows = rows
        self.detach_prefix = detach_prefix
        self.distribution = distribution
        self.targets = targets
        self.seed = seed
        self.draws: dict[str, LayerDraws] = {}
        self._scalar = SCALAR

    def before_train(self, runner: Runner) -> None:
        """Find the adapted layers.

        Raises:
            ValueError: There are none, the rows do not fit one, another SPUHook treats one, or the model is compiled.
            TypeError: A layer is of a kind that has no sub-ranks.
        """
        model = unwrap_model(runner.model)
        layers = sub_rank_layers(model, self.targets)
        _refuse_compiled(runner, model, layers)
        for name, layer in layers.items():
            try:
                check_rows(self.rows, layer.ranks)
            except ValueError as error:
                raise ValueError(f'{name}: {error}') from error
        others = [hook for hook in runner.hooks if isinstance(hook, SPUHook)]
        twice = sorted(set(layers) & {name for hook in others if hook is not self for name in hook.draws})
        if twice:
            raise ValueError(f'two SPUHooks treat {twice[:3]}: give each of them targets of its own')
        if others.index(self):
            self._scalar = f'{SCALAR}_{others.index(self) + 1}'
        seed = self.seed if self.seed is not None else _shared_seed(runner)
        options = dict(distribution=self.distribution, rows=self.rows, detach_prefix=self.detach_prefix)
        self.draws = {name: LayerDraws(layer, name, seed, **options) for name, layer in layers.items()}
        total = sum(layer.parameters_at(layer.ranks) for layer in layers.values())
        about = ', '.join(f'{key} {value}' for key, value in dict(seed=seed, **options).items())
        runner.logger.info(
            f'SPU draws sub-ranks for {len(layers)} layers of {total:,} parameters, anew in each {self.per}: {about}'
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Draw, or see to it that each forward pass does."""
        for draws in self.draws.values():
            draws.begin(runner.iter, each_forward=self.per == 'forward')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Give the layers their full rank back."""
        active = sum(draws.active_parameters for draws in self.draws.values())
        runner.message_hub.update_scalar(self._scalar, active)
        for draws in self.draws.values():
            draws.end()

    def after_train(self, runner: Runner) -> None:
        """Forget the layers."""
        self.draws = {}


def _shared_seed(runner: Runner) -> int:
    """Return the seed of the first process: with ``diff_rank_seed`` each has one of its own."""
    seed = torch.tensor(runner.seed, dtype=torch.int64)
    broadcast(seed)
    return int(seed)


def _refuse_compiled(runner: Runner, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    targets = {hook.target for hook in runner.hooks if isinstance(hook, CompileHook)}
    compiled = {'the training step'} if runner.cfg.get('compile') else set()
    for name, module in model.named_modules():
        asked = name in targets or module._compiled_call_impl is not None or '_orig_mod' in module._modules
        if asked and not set(layers.values()).isdisjoint(module.modules()):
            compiled.add(name or 'the model')
    if compiled:
        raise ValueError(
            f'SPUHook does not go with torch.compile, here of {sorted(compiled)}: tensors have another size at each '
            'sub-rank, so that it would compile for every one and give up after a few. Leave out one of the two, or '
            'compile a part without adapted layers'
        )
