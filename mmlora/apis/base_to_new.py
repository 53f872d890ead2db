"""Base to new: trained on one half of the classes, tested on it and on the other (Zhou et al., arXiv 2203.05557).

The figure of merit is the harmonic mean of both accuracies, for one set that of their means over runs, for the eleven
sets of CoOp that of the means over sets, as papers give it.
"""

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..datasets.coop_sets import COOP_SETS
from ..engine.protocol import HALVES, inner_dataset

if TYPE_CHECKING:
    from .collected import Cell

BASE, NEW = (f'-{half}' for half in HALVES)


class BaseToNew(NamedTuple):
    """Accuracy on base and on new classes, and their harmonic mean."""

    base: float
    new: float
    harmonic: float


def harmonic_mean(first: float, second: float) -> float:
    """Return the harmonic mean of two values that are not negative; 0 where one of them is 0."""
    return 2 * first * second / (first + second) if first + second else 0.0


def trained_elsewhere(entry: Mapping[str, Any]) -> str | None:
    """Return what data another than the tested one was trained on, or None.

    The new classes of a set are tested after training on its base classes; for them that is no other data, and
    training on themselves is.

    Args:
        entry: An entry of a results file.
    """
    wanted, trained_on = entry['dataset_name'], entry.get('trained_on')
    if inner_dataset(entry['test'].get('config')).get('subset') == HALVES[1]:
        wanted = f'{wanted.removesuffix(NEW)}{BASE}'
    return None if trained_on in (None, wanted) else trained_on


def base_to_new(row: Mapping[str, 'Cell']) -> dict[str, BaseToNew]:
    """Return what a row of a summary reaches on base and new classes.

    Args:
        row: Column -> cell.

    Returns:
        Data set -> its values, for those with results on both halves, and with all eleven sets of CoOp their mean. A
        half that was tested on several lists, or whose runs disagree, counts as none.
    """
    found: dict[str, list[float]] = {}
    for cell in row.values():
        found.setdefault(cell.results[0].dataset, []).append(cell.mean)
    whole = {name: means[0] for name, means in found.items() if len(means) == 1 and not math.isnan(means[0])}
    pairs = {}
    for name, base in whole.items():
        new = whole.get(f'{name.removesuffix(BASE)}{NEW}')
        if name.endswith(BASE) and new is not None:
            pairs[name.removesuffix(BASE)] = BaseToNew(base, new, harmonic_mean(base, new))
    if COOP_SETS.keys() <= pairs.keys():
        base, new = (statistics.fmean(getattr(pairs[name], half) for name in COOP_SETS) for half in HALVES)
        pairs[f'mean of {len(COOP_SETS)} sets'] = BaseToNew(base, new, harmonic_mean(base, new))
    return pairs
