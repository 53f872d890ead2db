"""Writes into every checkpoint by what protocol it came about."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ...registry import HOOKS, register
from ..protocol import describe_data, describe_run, plain_data_config


@register(HOOKS)
class ProtocolHook(Hook):
    """Put labels, progress and data of a run into ``meta['mmlora']['protocol']`` of its checkpoints.

    A run that starts from a checkpoint of another one (``load_from``) keeps the protocol of that, too. Warns where the
    test data choose the checkpoint. See :mod:`mmlora.engine.protocol`.
    """

    priority = 'LOW'  # Before the checkpoint hook, which turns everything into plain data.

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._started_from: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note the protocol of the checkpoint that the run starts from; one that goes on keeps what it had noted."""
        protocol = ((checkpoint.get('meta') or {}).get('mmlora') or {}).get('protocol')
        self._started_from = (protocol or {}).get('started_from') if runner._resume else protocol

    def before_train(self, runner: Runner) -> None:
        """Find out which data train and validate the run."""
        stopping = [hook.monitor for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
        self._facts = dict(
            describe_run(runner.cfg),
            training=_training_data(runner),
            validation=None,
            early_stopping=', '.join(stopping) or None,
            averaged=_averaged(runner),
            started_from=self._started_from,
        )
        if runner.val_loop is None:
            return
        config = (runner.cfg.get('val_dataloader') or {}).get('dataset')
        self._facts['validation'] = describe_data(config, runner.val_dataloader.dataset)
        test = (runner.cfg.get('test_dataloader') or {}).get('dataset')
        if _selects(runner) and test and plain_data_config(config) == plain_data_config(test):
            runner.logger.warning(
                'Model selection on test data: save_best or early stopping looks at val_dataloader, which holds the '
                'same data as test_dataloader. What it chooses will be recorded as chosen on TEST DATA. Give '
                'val_dataloader images of its own, or test the last checkpoint'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write the facts, and how far the run is."""
        if not self._facts:
            return  # Saved outside of training.
        meta = checkpoint.setdefault('meta', {})
        about = meta.setdefault('mmlora', {})
        about['protocol'] = self.describe(runner, meta, about.pop('selected_by', None))

    def describe(self, runner: Runner, reached: Mapping[str, Any], selected_by: str | None = None) -> dict[str, Any]:
        """Return the protocol of weights of a run that is or was training.

        Args:
            runner: The runner.
            reached: ``epoch`` and ``iter``, how many of them are done.
            selected_by: The metric that chose the weights, or None.
        """
        return {**self._facts, **_progress(runner, reached), 'seed': runner.seed, 'selected_by': selected_by}


def _training_data(runner: Runner) -> dict[str, Any]:
    config = (runner.cfg.get('train_dataloader') or {}).get('dataset')
    return describe_data(config, runner.train_dataloader.dataset, most=200_000)


def _selects(runner: Runner) -> bool:
    return any(getattr(hook, 'save_best', None) or isinstance(hook, EarlyStoppingHook) for hook in runner.hooks)


def _averaged(runner: Runner) -> str | None:
    """Return by what average of the weights a run is validated and saved, or None for the weights of the last step."""
    models = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    names = [type(m).__name__ + (f', momentum {m.momentum}' if hasattr(m, 'momentum') else '') for m in models]
    return '; '.join(names) or None


def _progress(runner: Runner, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return in epochs, or where the checkpoint is from within one, in iterations, how far a run was and will go."""
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        if meta['iter'] == meta['epoch'] * len(runner.train_dataloader):
            return dict(unit='epoch', step=meta['epoch'], total=runner.max_epochs)
    return dict(unit='iteration', step=meta['iter'], total=runner.max_iters)
