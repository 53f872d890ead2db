"""The means of VTAB-1k over its 19 sets and over its three groups (Zhai et al., arXiv 1910.04867).

Papers give either, and they differ, since the groups have 7, 4 and 8 sets. Neither is given here unless all sets are
there: a mean over some of them is no mean of VTAB-1k.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from ..datasets import VTAB_SETS
from ..datasets.vtab_sets import VTABSet, find_vtab_set
from .collected import Cell

PREFIX = 'vtab1k-'


@dataclass(frozen=True)
class Group:
    """A group of sets.

    Attributes:
        there: How many sets have a mean.
        wanted: How many there are.
        mean: The mean over the sets; nan unless all are there.
    """

    there: int
    wanted: int
    mean: float


@dataclass(frozen=True)
class VTABMeans:
    """The means of one row.

    Attributes:
        cells: Canonical name of a set -> its cell.
        groups: Name of a group -> its mean.
    """

    cells: Mapping[str, Cell]
    groups: Mapping[str, Group]

    @property
    def over_groups(self) -> float:
        """The mean of the group means; nan unless all sets are there."""
        return statistics.fmean(group.mean for group in self.groups.values())

    @property
    def over_sets(self) -> float:
        """The mean over the sets; nan unless all are there."""
        whole = len(self.cells) == len(VTAB_SETS)
        return statistics.fmean(cell.mean for cell in self.cells.values()) if whole else math.nan


def vtab_set_of(dataset: str) -> VTABSet | None:
    """Return the set of VTAB-1k that ``vtab1k-<name>`` names; None for other data.

    Raises:
        ValueError: The name begins with ``vtab1k-``, but there is no such set.
    """
    if not dataset.startswith(PREFIX):
        return None
    try:
        return find_vtab_set(dataset.removeprefix(PREFIX))
    except ValueError as error:
        raise ValueError(f'a result is named dataset_name={dataset!r}, but {error}') from error


def vtab_means(row: Mapping[str, Cell]) -> VTABMeans | None:
    """Return the means of VTAB-1k of a row of a summary.

    A set counts when it was tested on all images of its test list and its runs agree.

    Args:
        row: Column -> cell.

    Returns:
        The means; None for a row without sets of VTAB-1k.
    """
    candidates: dict[str, list[Cell]] = {}
    any_set = False
    for cell in row.values():
        result = cell.results[0]
        vtab_set = vtab_set_of(result.dataset)
        any_set = any_set or vtab_set is not None
        if vtab_set is not None and result.test[1] == vtab_set.test_images:
            candidates.setdefault(vtab_set.name, []).append(cell)
    if not any_set:
        return None
    # A set that was tested on two lists of the right length has no one mean.
    cells = {name: candidates[name][0] for name in VTAB_SETS
             if len(candidates.get(name, ())) == 1 and not candidates[name][0].conflicts}
    groups = {}
    for name in dict.fromkeys(vtab_set.group for vtab_set in VTAB_SETS.values()):
        members = [vtab_set.name for vtab_set in VTAB_SETS.values() if vtab_set.group == name]
        there = [cells[member].mean for member in members if member in cells]
        whole = len(there) == len(members)
        groups[name] = Group(len(there), len(members), statistics.fmean(there) if whole else math.nan)
    return VTABMeans(cells, groups)
