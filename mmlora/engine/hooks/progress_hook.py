"""Shows a live line on a terminal while a runner trains, validates or tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from ...progress import ProgressLine, close_line, open_line
from ...registry import HOOKS, register

_WINDOW = 10  # Iterations whose losses are averaged.


@register(HOOKS)
class ProgressHook(Hook):
    """A live line with epoch, step, loss, learning rate, the newest accuracy, time left and memory.

    It is drawn on a terminal alone (:func:`mmlora.terminal.is_live`), and reads what other hooks have noted: nothing of
    a run depends on it. Training and testing by ``tools`` add it, unless the config says ``progress = False``.
    """

    priority = 'LOWEST'  # The others have noted everything by then, and what they do before a run has lines of its own.

    def __init__(self) -> None:
        self._train: ProgressLine | None = None
        self._other: ProgressLine | None = None

    def before_train(self, runner: Runner) -> None:
        """Show the line of the training."""
        self._train = ProgressLine('train', runner.max_iters, runner.iter)
        self._train.update(**_newest_metric(runner))
        open_line(self._train)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Say where the training is."""
        line = self._train
        if line is None:
            return
        if not line.due:
            line.advance(runner.iter + 1)
            return
        scalars = runner.message_hub.log_scalars
        line.update(
            runner.iter + 1,
            epoch=f'{runner.epoch + 1}/{runner.max_epochs}' if runner.max_epochs > 1 else None,
            loss=_mean(scalars.get('train/loss')),
            lr=_mean(scalars.get('train/lr'), 1),
            **_newest_metric(runner),
        )

    def after_train(self, runner: Runner) -> None:
        """Take the line away."""
        self._train = _close(self._train)

    def before_val_epoch(self, runner: Runner) -> None:
        """Show the line of a validation."""
        self._begin('val', runner.val_dataloader)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Say where the validation is."""
        self._advance(batch_idx)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Take the line away."""
        self._other = _close(self._other)

    def before_test_epoch(self, runner: Runner) -> None:
        """Show the line of a test."""
        self._begin('test', runner.test_dataloader)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Say where the test is."""
        self._advance(batch_idx)

    def after_test_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Take the line away."""
        self._other = _close(self._other)

    def _begin(self, label: str, loader: Any) -> None:
        self._other = ProgressLine(label, len(loader))
        open_line(self._other)

    def _advance(self, batch_idx: int) -> None:
        if self._other is not None:
            self._other.update(batch_idx + 1)


def _close(line: ProgressLine | None) -> None:
    if line is not None:
        close_line(line)


def _mean(buffer: HistoryBuffer | None, window: int = _WINDOW) -> float | None:
    return None if buffer is None else float(buffer.mean(window))


def _newest_metric(runner: Runner) -> dict[str, float]:
    """Return name and value of the newest accuracy of a validation, or of its first metric where it has none."""
    names = [name for name in runner.message_hub.log_scalars
             if name.startswith('val/') and not name.endswith(('/time', '/data_time'))]
    if not names:
        return {}
    name = next((name for name in names if 'accuracy' in name), names[0])
    return {name.removeprefix('val/'): _mean(runner.message_hub.log_scalars[name], 1)}
