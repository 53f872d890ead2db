"""Report, check, export and track the ranks of an adapted model."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...adapters import LowRankLinear, adapted_layers
from ...io.atomic import write_text
from ...io.rank_files import write_exports
from ...io.spectrum_cache import SpectrumCache
from ...models.backbones.adapt import find_adapted
from ...ranks import (
    RankTable,
    Spectrum,
    check_budget,
    is_criterion,
    product_spectrum,
    resolve_criterion,
    slice_rows,
    spectrum,
    stable_rank,
)
from ...ranks.nested import Rank
from ...registry import HOOKS, register
from ..adaptation import unwrap_model

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
        self._layers: dict[str, LowRankLinear] = {}
        self._track: list[dict] = []
        self._frozen: dict[str, float] = {}

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
        self._layers = adapted_layers(backbone)
        settled = runner.cfg.get('rank_table')
        self.table = RankTable.from_dict(settled, 'cfg.rank_table') if settled else backbone.rank_table
        self._check(runner)
        runner.logger.info(f'Ranks:\n{self.table}')
        if is_main_process():
            files = write_exports(self.table, self.out_dir or runner.work_dir)
            runner.logger.info(f'Ranks written to {", ".join(str(f) for f in files.values())}')
            self._track = _read_track(self._track_file(runner), runner.iter)

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
        rows = [self._measure(epoch, iteration, name, layer) for name, layer in self._layers.items()]
        self._track += rows
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(self._track)
        write_text(self._track_file(runner), out.getvalue())
        known = [row for row in rows if row['change'] != '']
        if known:
            mean = sum(row['change'] for row in known) / len(known)
            relative = sum(row['relative_norm'] for row in known) / len(known)
            runner.visualizer.add_scalars(
                {'stable_rank/change': mean, 'stable_rank/relative_norm': relative},
                step=epoch if self.by_epoch else iteration,
            )

    def _check(self, runner: Runner) -> None:
        layers = self._layers
        adapted = {row.module for row in self.table.rows if row.rank}
        other = adapted ^ set(layers)
        if other:
            raise ValueError(f'the rank table and the model adapt different modules: {sorted(other)[:5]}')
        for module, rank in self.table.ranks.items():
            if module in layers and not _takes(rank, layers[module].ranks):
                raise ValueError(f'{module} has ranks {layers[module].ranks}, the table says {rank}')
        self._check_values(runner)

    def _check_values(self, runner: Runner) -> None:
        # Only what the weights alone decide can be computed again. The cache was filled when the ranks were settled.
        cache = SpectrumCache()
        for row in self.table.rows:
            layer = self._layers.get(row.module)
            if layer is None or row.value is None or layer.weight.requires_grad or not is_criterion(row.criterion):
                continue
            criterion = resolve_criterion(row.criterion)
            if criterion.reads not in ('norms', 'values'):
                continue
            rows = slice_rows(row.module, row.slice, layer.weight.shape[0])
            value = criterion.value(spectrum(layer.weight[rows], row.label, cache, criterion.reads))
            if abs(value - row.value) > 1e-3 * row.value:
                text = (
                    f'the rank table ({self.table.source}) was computed from other weights than those loaded: '
                    f'{row.criterion} of {row.label} is {value:.4f} here, the table says {row.value:.4f}'
                )
                if self.strict:
                    raise ValueError(f'{text}. StableRankHook(strict=False) accepts that')
                runner.logger.warning(text)
                return

    def _measure(self, epoch: int, iteration: int, name: str, layer: LowRankLinear) -> dict:
        weight = layer.frozen_weight
        if name not in self._frozen or layer.weight.requires_grad:
            self._frozen[name] = stable_rank(spectrum(weight, name))
        change = _change_spectrum(layer)
        norm = float(weight.detach().float().norm())
        return {
            'epoch': epoch,
            'iter': iteration,
            'module': name,
            'weight': self._frozen[name],
            'change': '' if change is None else stable_rank(change),
            'relative_norm': 0.0 if change is None else change.fro / norm,
        }

    def _track_file(self, runner: Runner) -> Path:
        return Path(self.out_dir or runner.work_dir) / TRACK_FILE


def _takes(rank: Rank, own: Mapping[str, int]) -> bool:
    """Return whether a layer has the ranks that a table says; slices of rank 0 are not adapted."""
    if isinstance(rank, Mapping):
        return {name: r for name, r in rank.items() if r} == dict(own)
    return set(own.values()) == {rank}


def _change_spectrum(layer: LowRankLinear) -> Spectrum | None:
    """Return the spectrum of the change, or None while it is zero; from the factors alone where they say it all."""
    if not layer.additive:
        delta = layer.delta().detach()
        return spectrum(delta, reads='norms') if delta.any() else None
    factors = layer.factors()
    scalings = layer.scalings
    a = torch.cat([pair[0] for pair in factors.values()])
    b = torch.block_diag(*(pair[1] * scalings[name] for name, pair in factors.items()))
    return product_spectrum(b, a)


def _read_track(path: Path, iteration: int) -> list[dict]:
    """Return the entries of an earlier run up to the iteration that a resumed run starts from."""
    if not path.is_file() or not iteration:
        return []
    rows = csv.DictReader(io.StringIO(path.read_text(encoding='utf-8')))
    return [row for row in rows if (row.get('iter') or '').isdigit() and int(row['iter']) <= iteration]
