"""Tells a model that is trained in two stages when the second one begins."""

import math
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from ...models.clip.methods import TwoStageCLIP
from ...registry import HOOKS, register
from ..adaptation import unwrap_model


@register(HOOKS)
class TwoStageHook(Hook):
    """Begin the second stage of ``TwoStageCLIP`` after a fraction of all iterations.

    The number of iterations is that of the loop, whether it counts epochs or iterations. The stage follows from the
    iteration alone, and the classifier from the weights at the switch, so that a run that is resumed in either stage
    equals the one that was never stopped. The optimizer holds the parameters of both stages from the beginning, and
    steps over those that have no gradient.

    Args:
        fraction: Of all iterations, for the first stage, in (0, 1); rounded down to whole iterations.

    Raises:
        ValueError: The fraction is out of range.
    """

    priority = 'HIGH'  # Before hooks that look at what learns.

    def __init__(self, fraction: float = 0.6) -> None:
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise ValueError(f'fraction must lie between 0 and 1, got {fraction!r}')
        self.fraction = fraction
        self._switch = 0

    def before_train(self, runner: Runner) -> None:
        """Find out when the second stage begins, and check that a resumed run is in the right one.

        Raises:
            TypeError: The model is no ``TwoStageCLIP``.
            ValueError: A stage would have no iteration, the resumed run is in the other stage, or weights are averaged.
        """
        model = unwrap_model(runner.model)
        if not isinstance(model, TwoStageCLIP):
            raise TypeError(f'TwoStageHook is for TwoStageCLIP, and the model is a {type(model).__name__}: leave it '
                            'out of custom_hooks')
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ValueError('averaged weights would mix a classifier with the zeros that it was before the second '
                             'stage: leave EMAHook out')
        self._switch = first_iterations(runner.max_iters, self.fraction)
        if not runner.iter:
            model.begin_first_stage()
        elif (model.stage == 2 and runner.iter <= self._switch) or (model.stage == 1 and runner.iter > self._switch):
            raise ValueError(
                f'the run is resumed at iteration {runner.iter} in stage {model.stage}, and the second stage of '
                f'{runner.max_iters} iterations begins after {self._switch}: resume with the number of iterations and '
                'the fraction that it began with'
            )
        if model.stage == 2:
            model.freeze_first_stage()
        runner.logger.info(f'Stage 1: {self._switch} iterations, stage 2: {runner.max_iters - self._switch}.')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin the second stage when it is time."""
        if runner.iter != self._switch:
            return
        unwrap_model(runner.model).begin_second_stage()
        runner.logger.info(f'Stage 2 begins: the classifier alone learns from iteration {runner.iter + 1} on.')


def first_iterations(total: int, fraction: float) -> int:
    """Return the number of iterations of the first stage.

    Raises:
        ValueError: One of the stages would have none.
    """
    first = math.floor(total * fraction + 1e-9)
    if not 0 < first < total:
        raise ValueError(f'fraction={fraction} of {total} iterations leaves {first} for the first stage and '
                         f'{total - first} for the second one: train longer')
    return first
