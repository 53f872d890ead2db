"""Means over the eleven sets of CoOp, as papers on adapting CLIP give them, and over the four with ImageNet's classes.

What was trained on one of the eleven and tested on the others is averaged over these ten.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from ..datasets.coop_sets import COOP_SETS, IMAGENET_SHIFTS
from .base_to_new import trained_elsewhere
from .collected import Cell


@dataclass(frozen=True)
class CoOpMean:
    """The mean of one row over a group of sets.

    Attributes:
        group: What the group is.
        cells: Name of a set -> its cell, of those that are there.
    """

    group: str
    cells: Mapping[str, Cell]

    @property
    def mean(self) -> float:
        """The mean over the sets that are there."""
        return statistics.fmean(cell.mean for cell in self.cells.values())


def coop_means(row: Mapping[str, Cell]) -> list[CoOpMean]:
    """Return the means of a row of a summary.

    Args:
        row: Column -> cell.

    Returns:
        One for each group of which at least two sets are there. A set that was tested on several lists, or whose runs
        disagree, counts as none.
    """
    found: dict[str, list[Cell]] = {}
    for cell in row.values():
        found.setdefault(cell.results[0].dataset, []).append(cell)
    whole = {name: cells[0] for name, cells in found.items() if len(cells) == 1 and not math.isnan(cells[0].mean)}
    sources = {trained_elsewhere(result.entry) for cell in row.values() for result in cell.results}
    learned = [name for name in COOP_SETS if name not in sources]
    groups = {
        f'{len(learned)} sets' if len(learned) == len(COOP_SETS) else f'{len(learned)} other sets': learned,
        f"{len(IMAGENET_SHIFTS)} sets of ImageNet's classes": list(IMAGENET_SHIFTS),
    }
    means = []
    for group, names in groups.items():
        cells = {name: whole[name] for name in names if name in whole}
        if len(cells) > 1:
            means.append(CoOpMean(group, cells))
    return means
