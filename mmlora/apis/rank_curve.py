"""The rank-accuracy curve: one trained adapter, evaluated with the first components of each layer only."""

import copy
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.runner import Runner

from ..adapters import at_rank, sub_rank_layers
from ..adapters.at_rank import check_point
from ..engine.adaptation import unwrap_model
from ..io.atomic import write_bytes, write_text
from ..io.checkpoint import load_checkpoint
from .distributed import start_processes
from .settle import settle_ranks
from .test import prepare_test_cfg
from .train import build_runner, stop_workers
from .unknown_types import explain_unknown_types

SPLITS = ('val', 'test')
FILES = ('rank_curve.csv', 'rank_curve.png')


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation.

    Attributes:
        kind: ``'rank'``, ``'fraction'`` or ``'full'``.
        value: The rank, or the fraction of each layer's rank; None at full rank.
        active_parameters: Learned parameters of the adapters in use.
        metrics: What the evaluator of the config says.
    """

    kind: str
    value: float | None
    active_parameters: int
    metrics: dict[str, float]

    @property
    def label(self) -> str:
        """What a reader calls the point: ``4``, ``0.25 r`` or ``full``."""
        return {'rank': f'{self.value}', 'fraction': f'{(self.value or 0):.3g} r', 'full': 'full'}[self.kind]


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
    :func:`mmlora.apis.test` measures.

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
        full = CurvePoint('full', None, sum(layer.parameters_at(layer.ranks) for layer in layers), runner.test())
        points = points or [('rank', 1 << i) for i in range((top - 1).bit_length())]
        curve = [*(_evaluate(runner, kind, value, rescale) for kind, value in points), full]
    stop_workers(runner)
    images = len(runner.test_loop.dataloader.dataset)
    data = f'{cfg.get("dataset_name") or type(runner.test_loop.dataloader.dataset).__name__}, {split}, {images} images'
    scaling = '' if rescale else ', scaling of the full rank'
    write_curve(curve, out or cfg.work_dir, data, f'{Path(checkpoint).name} on {data}{scaling}', rescale)
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


def _evaluate(runner: Runner, kind: str, value: float, rescale: bool) -> CurvePoint:
    with at_rank(unwrap_model(runner.model), **{kind: value}, rescale=rescale) as active:
        metrics = runner.test_loop.run()
    return CurvePoint(kind, value, active, metrics)


@master_only
def write_curve(
    points: Sequence[CurvePoint], folder: str | Path, data: str, title: str, rescale: bool = True
) -> list[Path]:
    """Write ``rank_curve.csv`` and ``rank_curve.png`` and return their paths.

    Args:
        points: The curve; the last point is that of the full rank.
        folder: Where they go.
        data: What was evaluated on, for the CSV.
        title: The title of the picture.
        rescale: How the changes were scaled, for the CSV.
    """
    picture = io.BytesIO()
    curve_to_figure(points, title).savefig(picture, format='png', dpi=120)
    table, image = (Path(folder) / name for name in FILES)
    return [write_text(table, curve_to_csv(points, data, rescale)), write_bytes(image, picture.getvalue())]


def curve_to_csv(points: Sequence[CurvePoint], data: str, rescale: bool = True) -> str:
    """Return the points as CSV with a header; after ``active_parameters`` there is a column for each metric.

    Args:
        points: The curve.
        data: What was evaluated on.
        rescale: Whether the scaling followed its rule at the lower ranks.
    """
    out = io.StringIO()
    metrics = list(dict.fromkeys(name for point in points for name in point.metrics))
    columns = ['data', 'scaling', 'kind', 'value', 'active_parameters', *metrics]
    writer = csv.DictWriter(out, columns, lineterminator='\n')
    writer.writeheader()
    for point in points:
        writer.writerow(
            {
                'data': data,
                'scaling': 'by rule' if rescale else 'full rank',
                'kind': point.kind,
                'value': point.value,
                'active_parameters': point.active_parameters,
                **point.metrics,
            }
        )
    return out.getvalue()


def curve_to_figure(points: Sequence[CurvePoint], title: str) -> Figure:
    """Return a panel for each metric over the active adapter parameters; the full rank is a horizontal line."""
    names = [name for name, value in points[-1].metrics.items() if isinstance(value, int | float)]
    if not names:
        raise ValueError(f'there is no number among the metrics {sorted(points[-1].metrics)} to draw')
    figure = Figure(figsize=(1.2 + 4.8 * len(names), 4), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        full = points[-1].metrics[name]
        axes.axhline(full, color='0.7', linewidth=1, zorder=0)
        for i, kind in enumerate(('rank', 'fraction')):
            own = [p for p in points if p.kind in (kind, 'full')]
            if len(own) > 1:
                own = sorted(own, key=lambda p: p.active_parameters)
                axes.plot([p.active_parameters for p in own], [p.metrics[name] for p in own], f'C{i}o-', label=kind)
                for p in own[:-1]:
                    place = (p.active_parameters, p.metrics[name])
                    axes.annotate(p.label, place, xytext=(4, -11), textcoords='offset points', fontsize=8)
        axes.annotate('full', (points[-1].active_parameters, full), xytext=(-6, 6), textcoords='offset points',
                      fontsize=8)
        axes.set_xscale('log', base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
        axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel('active adapter parameters')
        axes.set_ylabel(name)
        axes.margins(x=0.08, y=0.12)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc='lower right')
    figure.suptitle(title, fontsize=10)
    return figure
