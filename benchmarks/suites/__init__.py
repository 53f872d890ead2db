"""The suites by name: functions from a device, and whether to be quick, to what is measured."""

from collections.abc import Callable, Iterable

import torch

from ..core import Comparison, Growth
from . import attention, episodes, hub, linear, rlrr, sparse, stable_rank, text

Suite = Callable[[torch.device, bool], Iterable[Comparison | Growth]]

SUITES: dict[str, Suite] = {
    'attention': attention.suite,
    'text': text.suite,
    'linear': linear.suite,
    'rlrr': rlrr.suite,
    'sparse': sparse.suite,
    'episodes': episodes.suite,
    'hub': hub.suite,
    'stable_rank': stable_rank.suite,
}
"""A new suite is one file and one entry."""
