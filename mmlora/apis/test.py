"""Testing a checkpoint: what ``tools/test.py`` calls."""

import copy
import os
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults

from ..io.atomic import write_bytes
from ..io.checkpoint import load_checkpoint
from ..progress import tidy_terminal
from .details import add_details, keep_details
from .distributed import start_processes, wrap_for_processes
from .labels import check_labels
from .prepare import add_hook, set_loader_options, set_work_dir
from .records import check_results, make_record, results_folder, write_record
from .resuming import POINTER
from .settle import settle_ranks
from .settle_classes import settle_classes
from .settle_images import settle_images
from .train import build_runner, stop_workers
from .unknown_types import explain_unknown_types
from .unused_variables import warn_of_mistyped_variables
from .variables import settle_variables

TESTS = 'tests'
OUT_SUFFIXES = {'pred': ('.pkl', '.pickle'), 'metrics': ('.json', '.yaml', '.yml', '.pkl', '.pickle')}


@tidy_terminal()
def test(
    cfg: Config,
    checkpoint: str,
    *,
    out: str | None = None,
    out_item: str = 'pred',
    record: bool = True,
    **options: Any,
) -> dict[str, float]:
    """Test a checkpoint on the test data of a config, and record the result; see :mod:`mmlora.apis.records`.

    Args:
        cfg: The config; it is not changed.
        checkpoint: The checkpoint; a rank table that it carries wins over the ranks of the config.
        out: File for the predictions (``.pkl``) or metrics (``.json``, ``.yaml``, ``.pkl``).
        out_item: ``pred`` or ``metrics``.
        record: Whether to write the result to ``results.json``, and what a report shows of it to ``details``.
        **options: As for :func:`prepare_test_cfg`.

    Returns:
        The metrics.

    Raises:
        ValueError: The config, an option or the checkpoint cannot be used.
        FileNotFoundError: There is no such checkpoint.
    """
    if out is not None:
        check_out(out, out_item)
    cfg = prepare_test_cfg(cfg, checkpoint, **options)
    meta = load_checkpoint(checkpoint).get('meta') or {}  # Before the data set is read, in case the path is wrong.
    folder = results_folder(checkpoint, meta, cfg.work_dir) if record else None
    if folder:
        check_results(folder)
    start_processes(cfg)
    with explain_unknown_types():
        settle_ranks(cfg, checkpoint=checkpoint)
        settle_classes(cfg, checkpoint)
        settle_images(cfg, checkpoint)
        runner = build_runner(cfg)
        check_labels(runner, 'test', trained_classes=(meta.get('dataset_meta') or {}).get('classes') or ())
        aside = f'{out}.part{Path(out).suffix}' if out is not None and out_item == 'pred' else None
        if aside:
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=aside))
        if folder:
            keep_details(runner)
        metrics = runner.test()
    stop_workers(runner)
    if folder and runner.rank == 0:
        ways = dict(tta=bool(options.get('tta')), amp=bool(options.get('amp')))
        entry = make_record(cfg, runner, checkpoint, meta, metrics, **ways)
        path = write_record(folder, entry)
        runner.logger.info(f'The result ({entry["protocol"]["selection"]}) is recorded in {path}')
    if out is not None and runner.rank == 0:
        if aside:
            os.replace(aside, out)
        else:
            text = mmengine.dump(metrics, file_format=Path(out).suffix.lstrip('.'))
            write_bytes(out, text if isinstance(text, bytes) else text.encode())
    if folder and runner.rank == 0:
        add_details(folder, runner, entry)  # Last: whatever fails there, the numbers are safe.
    return metrics


test.__test__ = False  # Not a case for pytest, whatever its name.


def check_out(out: str, out_item: str) -> None:
    """Check the name of the output file before the test has run.

    Raises:
        ValueError: The item is unknown, or its values cannot be written to a file of that suffix.
    """
    if out_item not in OUT_SUFFIXES:
        raise ValueError(f'the output item must be one of {", ".join(OUT_SUFFIXES)}, got {out_item!r}')
    if Path(out).suffix not in OUT_SUFFIXES[out_item]:
        raise ValueError(f'{out!r}: {out_item} are written to a file ending in {", ".join(OUT_SUFFIXES[out_item])}')


def prepare_test_cfg(
    cfg: Config,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    amp: bool = False,
    tta: bool = False,
    show: bool = False,
    show_dir: str | None = None,
    interval: int = 1,
    wait_time: float = 2,
    pin_memory: bool = True,
    persistent_workers: bool = True,
    launcher: str | None = None,
) -> Config:
    """Return the config with which a checkpoint is tested.

    Args:
        cfg: The config; it is not changed.
        checkpoint: The checkpoint.
        work_dir: Folder of the log. By default the config's, else as in training; where the config has a
            ``run_folder``, and the checkpoint is of another run than it names, ``tests`` beside the checkpoint.
        amp: Autocast the forward passes.
        tta: Test-time augmentation, by the config's ``tta_pipeline`` and ``tta_model``, else the mean over the image
            and its mirror image.
        show: Show the predictions in a window.
        show_dir: Folder for images with the predictions.
        interval: Draw every so many images.
        wait_time: Seconds for which a window is shown.
        pin_memory: False turns it off; it is never on without CUDA.
        persistent_workers: False turns it off; it is never on without worker processes.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``; none by default, whatever the config was trained with.

    Raises:
        ValueError: An option does not fit the config.
    """
    cfg = copy.deepcopy(cfg)
    if not cfg.get('test_dataloader') or cfg.get('test_cfg') is None or not cfg.get('test_evaluator'):
        raise ValueError('testing needs test_dataloader, test_cfg and test_evaluator in the config')
    cfg.setdefault('default_scope', 'mmpretrain')
    cfg.launcher = launcher or 'none'
    warn_of_mistyped_variables(cfg)
    _set_test_dir(cfg, work_dir, checkpoint)
    cfg.load_from, cfg.resume = str(checkpoint), False
    cfg.pop('compile', None)
    if amp:
        cfg.test_cfg.fp16 = True
    if show or show_dir is not None:
        if tta:
            raise ValueError('predictions of test-time augmentation cannot be drawn, as each image has several '
                             'versions: leave out tta, or show and show_dir')
        _set_visualization(cfg, show=show, out_dir=show_dir, interval=interval, wait_time=wait_time)
    if tta:
        _set_tta(cfg)
    set_loader_options(cfg, pin_memory, persistent_workers)
    strict = add_hook(cfg, 'StrictLoadHook')
    if isinstance(strict, dict):
        strict['fine_tune'] = False
    wrap_for_processes(cfg)
    return cfg


def _set_test_dir(cfg: Config, work_dir: str | None, checkpoint: str) -> None:
    named, run = work_dir is None and not cfg.get('work_dir') and 'run_folder' in cfg, Path(checkpoint).parent
    set_work_dir(cfg, work_dir, settle_variables(cfg))
    if named and (run / POINTER).is_file() and run.resolve() != Path(cfg.work_dir).resolve():
        # The folder of a run on the tested data would get log and config of another run.
        cfg.work_dir = str(run / TESTS)


def _set_visualization(cfg: Config, **options: Any) -> None:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise ValueError("showing predictions needs visualization=dict(type='VisualizationHook') in default_hooks")
    hook.update(enable=True, **options)


def _set_tta(cfg: Config) -> None:
    dataset = cfg.test_dataloader.dataset
    if not cfg.get('tta_pipeline'):
        if not dataset.get('pipeline'):
            raise ValueError('test-time augmentation needs test_dataloader.dataset.pipeline, or tta_pipeline in the '
                             'config')
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        *before, pack = copy.deepcopy(list(dataset.pipeline))
        cfg.tta_pipeline = [*before, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    model = cfg.get('tta_model') or dict(type='mmpretrain.AverageClsScoreTTA')
    cfg.model = ConfigDict(**model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
