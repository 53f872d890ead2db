"""Report, check, export and track the ranks of an adapted model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...adapters import adapted_layers
from ...io.rank_files import write_exports
from ...models.backbones.adapt import find_adapted
from ...ranks import RankTable, check_budget, resolve_criterion
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..rank_check import check_ranks, other_weights
from ..rank_track import RankTrack

TRACK_FILE = 'stable_ranks.csv'


@register(HOOKS, 'vit_srloraHook', 'swin_srloraHook')
class StableRankHook(Hook):
    """Hook of SR-LoRA (arXiv 2507.00327).

    Listing it in ``custom_hooks`` is enough to ask for ranks from the stable ranks of the frozen weights:
    :func:`mmlora.apis.settle_ranks` reads ``criterion`` and ``budget`` before the model is built. The hook then reports
    the table, checks that it fits the loaded weights, writes ``ranks.json``, ``ranks.csv``, ``ranks.png`` and
    ``ranks_config.py`` to the work directory, puts the table into the meta of each checkpoint, and tracks the stable
    rank of W and of the change, and the relative size of the change, in ``stable_ranks.csv``.

    Args:
        criterion: A name in :data:`mmlora.ranks.CRITERIA`, with its parameter after ``@``.
        budget: As in :func:`mmlora.ranks.check_budget`.
        interval: Epochs, or iterations, between two entries of the track; 0 tracks nothing.
        by_epoch: Whether ``interval`` counts epochs. Loops that count iterations have one epoch, which ends with them.
        strict: Whether a table that was computed from other weights than those loaded is an error. False warns.
        out_dir: Folder of the exports, by default the work directory.

    Raises:
        ValueError: The criterion is unknown, the budget is not valid, or the interval is negative.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        criterion: str = 'stable_rank',
        budget: Mapping[str, float] | None = None,
        interval: int = 1,
        by_epoch: bool = True,
        strict: bool = True,
        out_dir: str | None = None,
    ) -> None:
        resolve_criterion(criterion)
        check_budget(budget)
        if interval < 0:
            raise ValueError(f'interval must be at least 0, got {interval}')
        self.criterion = criterion
        self.budget = budget
        self.interval = interval
        self.by_epoch = by_epoch
        self.strict = strict
        self.out_dir = out_dir
        self.table: RankTable | None = None
        self._track: RankTrack | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the table, check it against the loaded weights, report and export it.

        Raises:
            ValueError: The model has no adapted layer, or the table does not fit it.
        """
        backbones = find_adapted(unwrap_model(runner.model))
        if len(backbones) != 1:
            raise ValueError(
                'StableRankHook needs one adapted backbone (VitSR_LoRA, SwinSR_LoRA or AdaptedBackbone), the model has '
                f'{len(backbones)} {list(backbones)}'
            )
        backbone = next(iter(backbones.values()))
        layers, folder = adapted_layers(backbone), Path(self.out_dir or runner.work_dir)
        settled = runner.cfg.get('rank_table')
        self.table = RankTable.from_dict(settled, 'cfg.rank_table') if settled else backbone.rank_table
        check_ranks(self.table, layers)
        fault = other_weights(self.table, layers)
        if fault and self.strict:
            raise ValueError(f'{fault}. StableRankHook(strict=False) accepts that')
        if fault:
            runner.logger.warning(fault)
        # With ranks of 0 alone there is nothing to track.
        self._track = RankTrack(layers, folder / TRACK_FILE, runner.iter) if layers else None
        runner.logger.info(f'Ranks:\n{self.table}')
        if is_main_process():
            files = write_exports(self.table, folder)
            runner.logger.info(f'Ranks written to {", ".join(str(f) for f in files.values())}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the table into the meta of the checkpoint."""
        if self.table is not None:
            checkpoint.setdefault('meta', {}).setdefault('mmlora', {})['rank_table'] = self.table.to_dict()

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the stable ranks of this epoch."""
        if self.by_epoch and self.interval and self.every_n_epochs(runner, self.interval):
            self._write(runner, runner.epoch + 1, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the stable ranks of this iteration, if ``interval`` counts them."""
        if not self.by_epoch and self.interval and self.every_n_train_iters(runner, self.interval):
            self._write(runner, runner.epoch + 1, runner.iter + 1)

    @master_only
    def _write(self, runner: Runner, epoch: int, iteration: int) -> None:
        if self._track is None:
            return
        means = {f'stable_rank/{key}': mean for key, mean in self._track.add(epoch, iteration).items()}
        if means:
            runner.visualizer.add_scalars(means, step=epoch if self.by_epoch else iteration)
