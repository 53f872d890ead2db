"""Are ranks from the weights better than others of the same total size?

The control that SR-LoRA (arXiv 2507.00327) lacks: its code compares ranks of 9 to 116 with uniform ranks of other size,
at a scaling that shrinks with the rank, so that size, scaling and allocation are mixed up. Here every allocation gets
the same number of learned parameters and the same scaling, and each its own best learning rate.
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..io.atomic import write_text
from .trial import run_trial

BUDGETS = (18432, 55296)
"""Learned parameters of the adapters of ``vit-micro``: a rank of 8 and of 24 everywhere. With 4608, a rank of 2, the
stable ranks of that network, 18 to 30, give equal ranks, too."""
SEEDS = (0, 1, 2, 3, 4)
TUNE_SEEDS = (100, 101, 102)  # other few-shot draws than those of the table
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
LR, RANKS, BUDGET = 'optim_wrapper.optimizer.lr', 'model.backbone.lora_ranks', 'model.backbone.rank_budget'


@dataclass(frozen=True)
class Cell:
    """One allocation at one budget.

    Attributes:
        criterion: Name of the rank criterion.
        budget: Learned parameters that the adapters may have.
        rate: Learning rate, the best of the grid on validation images.
        accuracies: Test accuracy of each seed, in percent.
        trainable: Learned parameters of each seed, the classifier's included.
    """

    criterion: str
    budget: int
    rate: float
    accuracies: tuple[float, ...]
    trainable: tuple[int, ...]


def run_ablation(
    configs: Sequence[Path],
    work_dir: Path,
    budgets: Iterable[int] = BUDGETS,
    seeds: Sequence[int] = SEEDS,
    rates: Sequence[float] = RATES,
    tune_seeds: Sequence[int] = TUNE_SEEDS,
) -> Iterator[Cell]:
    """Choose a learning rate for each allocation and budget on validation images, then test it on all seeds.

    Trials that ``work_dir`` holds from an interrupted call are not run again.

    Args:
        configs: One config for each criterion, which its ``model.backbone.lora_ranks`` names.
        work_dir: Where the runs go.
        budgets: Learned parameters that the adapters may have.
        seeds: Runs of the table; they choose images, initial factors and, for ``random``, the ranks.
        rates: Learning rates to choose from.
        tune_seeds: Runs for each learning rate; they may not be among ``seeds``.

    Yields:
        Each cell as it is finished.

    Raises:
        ValueError: A config names no criterion, or that of another; or a tuning seed is a seed of the table.
    """
    if set(seeds) & set(tune_seeds):
        raise ValueError(f'seeds {sorted(set(seeds) & set(tune_seeds))} are used for tuning and in the table')
    criteria = {criterion_of(config): config for config in configs}
    if len(criteria) < len(configs):
        raise ValueError(f'give one config for each criterion, got {len(configs)} configs for {sorted(criteria)}')
    for budget, (criterion, config) in itertools.product(budgets, criteria.items()):
        of_rate = {
            rate: statistics.mean(
                _trial(config, work_dir, criterion, budget, rate, seed, 'val')['accuracy'] for seed in tune_seeds
            )
            for rate in rates
        }
        best = max(of_rate, key=of_rate.get)
        runs = [_trial(config, work_dir, criterion, budget, best, seed, 'test') for seed in seeds]
        accuracies, trainable = (tuple(run[key] for run in runs) for key in ('accuracy', 'trainable'))
        yield Cell(criterion, budget, best, accuracies, trainable)


def criterion_of(config: Path) -> str:
    """Return the criterion that a config names.

    Raises:
        ValueError: It names none.
    """
    ranks = Config.fromfile(str(config)).model.backbone.get('lora_ranks')
    if not isinstance(ranks, str):
        raise ValueError(f'{config} has lora_ranks={ranks!r}; an ablation needs the name of a criterion there')
    return ranks


def ablation_table(cells: Sequence[Cell]) -> str:
    """Return the results as a Markdown table.

    The last column is the mean difference to the first criterion of the same budget over paired seeds, with its 95 %
    interval by Student's t.
    """
    lines = [
        '| adapter parameters | ranks from | learned in all | learning rate | test accuracy, % | paired difference |',
        '|---|---|---|---|---|---|',
    ]
    for cell in cells:
        first = next(c for c in cells if c.budget == cell.budget)
        spread = statistics.stdev(cell.accuracies) if len(cell.accuracies) > 1 else math.nan
        learned = ' to '.join(f'{n:,}' for n in sorted({min(cell.trainable), max(cell.trainable)}))
        difference = '' if cell is first else paired_difference(cell.accuracies, first.accuracies)
        lines.append(
            f'| {cell.budget:,} | {cell.criterion} | {learned} | {cell.rate:g} | '
            f'{statistics.mean(cell.accuracies):.2f} +- {spread:.2f} | {difference} |'
        )
    return '\n'.join(lines)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> str:
    """Return the mean of ``first - second`` with the half width of its 95 % interval, as text."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, n = statistics.mean(differences), len(differences)
    if n < 2:
        return f'{mean:+.2f}'
    from scipy.stats import t  # its import is slow

    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return f'{mean:+.2f} +- {half:.2f}'


def _trial(
    config: Path, work_dir: Path, criterion: str, budget: int, rate: float, seed: int, split: str
) -> dict[str, Any]:
    """Run a trial, or return what an earlier call wrote about the same one."""
    ranks = f'random@{seed}' if criterion == 'random' else criterion
    overrides = {LR: rate, RANKS: ranks, BUDGET: dict(params=budget)}
    asked = dict(config=Config.fromfile(str(config)).to_dict(), seed=seed, split=split, overrides=overrides)
    asked = json.loads(json.dumps(asked))
    folder = work_dir / f'{criterion}_params{budget}_lr{rate:g}_seed{seed}_{split}'
    file = folder / 'trial.json'
    if file.is_file():
        done = json.loads(file.read_text(encoding='utf-8'))
        if done['asked'] == asked:
            return done['result']
    trial = run_trial(config, folder, seed, split, overrides)
    result = {key: value for key, value in asdict(trial).items() if key != 'work_dir'}
    write_text(file, json.dumps({'asked': asked, 'result': result}, indent=1) + '\n')
    return result
