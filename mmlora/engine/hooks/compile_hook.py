"""Compiles the backbone in place."""

import difflib
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS, register
from ..adaptation import unwrap_model


@register(HOOKS)
class CompileHook(Hook):
    """Compile a part of the model with ``torch.compile`` before training.

    mmengine's own ``compile`` compiles the whole training step, optimizer included, which fails with parameter groups
    from a config. Here ``nn.Module.compile`` replaces the call of one module only: names of parameters, checkpoints and
    copies of the model are not touched.

    Args:
        target: The module to compile, seen from the model.
        **options: Arguments of ``torch.compile``, such as ``backend``, ``mode`` or ``dynamic``.
    """

    priority = 'VERY_LOW'  # After every hook that still changes the model.

    def __init__(self, target: str = 'backbone', **options: Any) -> None:
        self.target = target
        self.options = options

    def before_train(self, runner: Runner) -> None:
        """Compile the module.

        Raises:
            ValueError: The model has no such module.
        """
        model = unwrap_model(runner.model)
        modules = dict(model.named_modules())
        if self.target not in modules:
            close = difflib.get_close_matches(self.target, modules, n=3) or list(dict(model.named_children()))
            raise ValueError(f'cannot compile {self.target!r}: {type(model).__name__} has no such module; it has '
                             f'{", ".join(close)}')
        modules[self.target].compile(**self.options)
        runner.logger.info(f'{self.target} is compiled at its first call, which takes a while')
