"""Keeps half-accumulated gradients in checkpoints."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS, register
from ..adaptation import unwrap_model

KEY = 'gradients'


@register(HOOKS)
class AccumulationHook(Hook):
    """Save and restore gradients that wait for the optimizer's next step.

    With ``accumulative_counts`` above 1 a checkpoint may fall between two steps of the optimizer; without the gradients
    gathered so far the resumed run would take another step. Processes hold gradients of their own until a step, and
    only the first one writes, so with several processes nothing is kept and a warning says so.
    """

    priority = 'LOW'  # Before the checkpoint hook turns what is saved into plain data.

    def __init__(self) -> None:
        self._gradients: dict[str, torch.Tensor] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the gradients that wait, if there are any."""
        parameters = unwrap_model(runner.model).named_parameters()
        gradients = {name: p.grad.cpu() for name, p in parameters if p.grad is not None}
        if not gradients:
            return
        if runner.world_size > 1:
            runner.logger.warning('This checkpoint lies between two steps of the optimizer; a run that resumes from it '
                                  'with several processes loses the gradients gathered since the last step.')
            return
        checkpoint[KEY] = gradients

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the gradients out of a checkpoint that is resumed."""
        self._gradients = checkpoint.get(KEY, {}) if runner._resume else {}

    def before_train(self, runner: Runner) -> None:
        """Give the gradients to the parameters.

        Raises:
            ValueError: A gradient belongs to no parameter of the model.
        """
        parameters = dict(unwrap_model(runner.model).named_parameters())
        unknown = sorted(set(self._gradients) - set(parameters))
        if unknown:
            raise ValueError(f'the checkpoint holds gradients of parameters that the model lacks: {unknown[:5]}')
        for name, gradient in self._gradients.items():
            parameters[name].grad = gradient.to(parameters[name])
        self._gradients = {}
