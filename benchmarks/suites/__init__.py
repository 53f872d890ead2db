"""The suites by name: functions from a device, and whether to be quick, to what is measured.

A new suite is one file with a function ``suite`` and a text ``ABOUT``, and one entry here.
"""

from collections.abc import Callable, Iterable

import torch

from ..core import Comparison, Growth
from . import (
    attention,
    data,
    episodes,
    generator,
    hub,
    last_blocks,
    linear,
    mixed,
    rlrr,
    sparse,
    stable_rank,
    start_up,
    step,
    switch,
    text,
)

Suite = Callable[[torch.device, bool], Iterable[Comparison | Growth]]

MODULES = dict(
    attention=attention,
    text=text,
    linear=linear,
    step=step,
    last_blocks=last_blocks,
    rlrr=rlrr,
    sparse=sparse,
    episodes=episodes,
    hub=hub,
    stable_rank=stable_rank,
    mixed=mixed,
    switch=switch,
    start_up=start_up,
    data=data,
    generator=generator,
)

SUITES: dict[str, Suite] = {name: module.suite for name, module in MODULES.items()}
"""What each suite measures."""

ABOUT: dict[str, str] = {name: module.ABOUT for name, module in MODULES.items()}
"""What each suite compares and why, in Markdown: the prose over its tables."""
