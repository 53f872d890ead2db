"""The rank-accuracy curve: one trained adapter, evaluated with the first components of each layer only."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..adapters import at_rank, sub_rank_layers
from ..adapters.at_rank import check_point
from ..engine.adaptation import unwrap_model
from ..io.checkpoint import load_checkpoint
from .distributed import start_processes
from .rank_curve_files import CurvePoint, curve_to_text, describe_point, describe_scaling, write_curve
from .settle import settle_ranks
from .test import prepare_test_cfg
from .train import build_runner, stop_workers
from .unknown_types import explain_unknown_types

SPLITS = ('val', 'test')


def rank_curve(
    cfg: Config,
    checkpoint: str,
    *,
    ranks: Sequence[int] | None = None,
    fractions: Sequence[float] | None = None,
    split: str = 'val',
    rescale: bool = True,
    out: str | None = None,
    **options: Any,
) -> list[CurvePoint]:
    """Evaluate a trained adapter at lower ranks, and write ``rank_curve.csv`` and ``rank_curve.png``.

    The model and the data set are built once. The full rank comes first in time and last in the result; it is what
    :func:`mmlora.apis.test` measures. The log ends with the curve as a table. What mmengine says about the single
    evaluations goes to the log file only: it calls all of them the same.

    Args:
        cfg: The config; it is not changed.
        checkpoint: The checkpoint.
        ranks: Numbers of components; layers of a lower rank use all theirs. Without ranks and fractions the powers of
            two below the largest rank.
        fractions: Fractions of each layer's rank, in (0, 1], rounded up.
        split: ``'val'`` or ``'test'``: whose loader and evaluator of the config are used. A rank that is chosen on test
            data has seen them.
        rescale: Whether the scaling of each change follows its rule at the lower rank, as in training with SPU. False
            keeps that of the full rank, which is fairer to an adapter that was trained without.
        out: Folder of the two files, by default the work directory.
        **options: As for :func:`mmlora.apis.prepare_test_cfg`.

    Returns:
        The points in the order of ranks, fractions and full rank.

    Raises:
        ValueError: An option or the config cannot be used, or the model has no adapted layer.
        TypeError: A rank is not an integer, or a layer is of a kind that has no sub-ranks.
        FileNotFoundError: There is no such checkpoint.
    """
    points = [('rank', m) for m in ranks or ()] + [('fraction', f) for f in fractions or ()]
    for kind, value in points:
        check_point(**{'rank': None, 'fraction': None, kind: value})
    cfg = prepare_test_cfg(on_split(cfg, split), checkpoint, **options)
    load_checkpoint(checkpoint)  # A wrong path or a broken file is said before the data set is read.
    start_processes(cfg)
    with explain_unknown_types():
        settle_ranks(cfg, checkpoint=checkpoint)
        runner = build_runner(cfg)
        layers = sub_rank_layers(unwrap_model(runner.model)).values()
        top = max(max(layer.ranks.values()) for layer in layers)
        points = points or [('rank', 1 << i) for i in range((top - 1).bit_length())]
        name = cfg.get('dataset_name') or type(runner.test_loop.dataloader.dataset).__name__
        data = f'{name}, {split}, {len(runner.test_loop.dataloader.dataset)} images'
        runner.logger.info(f'{len(points) + 1} evaluations on {data}')
        full = _evaluate(runner, 'full', None, sum(layer.parameters_at(layer.ranks) for layer in layers))
        curve = [*(_evaluate_at(runner, kind, value, rescale) for kind, value in points), full]
    stop_workers(runner)
    files = write_curve(curve, out or cfg.work_dir, data, f'{Path(checkpoint).name} on {data}', rescale)
    if runner.rank == 0:
        runner.logger.info(
            f'{Path(checkpoint).name} on {data}, {describe_scaling(rescale)}:\n{curve_to_text(curve)}\n'
            f'Written to {" and ".join(str(file) for file in files)}'
        )
    return curve


def on_split(cfg: Config, split: str) -> Config:
    """Return a copy of a config that tests on the data of a split.

    Raises:
        ValueError: The split is unknown, or the config has no data or evaluator for it.
    """
    if split not in SPLITS:
        raise ValueError(f'the split must be one of {", ".join(SPLITS)}, got {split!r}')
    cfg = copy.deepcopy(cfg)
    if split == 'val':
        if not cfg.get('val_dataloader') or not cfg.get('val_evaluator'):
            raise ValueError(
                "the config has no val_dataloader and val_evaluator: add them, or evaluate on the test data by "
                "split='test'; then do not choose a rank by the curve"
            )
        cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy((cfg.val_dataloader, cfg.val_evaluator))
        if cfg.get('test_cfg') is None:
            cfg.test_cfg = dict()
    return cfg


def _evaluate_at(runner: Runner, kind: str, value: float, rescale: bool) -> CurvePoint:
    with at_rank(unwrap_model(runner.model), **{kind: value}, rescale=rescale) as active:
        return _evaluate(runner, kind, value, active)


def _evaluate(runner: Runner, kind: str, value: float | None, active: int) -> CurvePoint:
    runner.logger.info(f'Evaluating {describe_point(kind, value)}: {active:,} adapter parameters')
    with _log_file_only(runner.logger):
        metrics = runner.test() if kind == 'full' else runner.test_loop.run()
    return CurvePoint(kind, value, active, metrics)


@contextmanager
def _log_file_only(logger: logging.Logger) -> Iterator[None]:
    """Keep everything below a warning out of the console inside the block."""
    consoles = [h for h in logger.handlers if not isinstance(h, logging.FileHandler)]
    before = [handler.level for handler in consoles]
    for handler in consoles:
        handler.setLevel(max(handler.level, logging.WARNING))
    try:
        yield
    finally:
        for handler, level in zip(consoles, before, strict=True):
            handler.setLevel(level)
