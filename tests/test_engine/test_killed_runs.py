"""A run that SIGKILL ends, and that goes on, leaves behind what the run does that nobody killed, bit for bit.

``MMLORA_KILLS=20`` kills each at 20 random places besides; ``make test-long`` does. See ``kill_table.py``.
"""

import os

import pytest
from kill_modes import MODES, POINTS, World
from kill_table import KilledRuns, random_kills
from tiny import one_thread  # noqa: F401

KILLS = int(os.environ.get('MMLORA_KILLS', 0))
SAVING = list(POINTS)[2:]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp('world'))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='kills a copy of this process')
@pytest.mark.parametrize('number', range(len(MODES)), ids=list(MODES))
def test_a_killed_run_ends_like_one_that_nobody_killed(tmp_path, world, one_thread, number):  # noqa: F811
    runs = KilledRuns(list(MODES.values())[number], world, tmp_path)
    # Each run within an epoch, between two, and at one place of a save; all places and random ones where time is given.
    points = list(POINTS) if KILLS else [*list(POINTS)[:2], SAVING[number % len(SAVING)]]
    for point in points:
        assert not runs.difference(runs.place(point)), point
    for what, found in random_kills(runs, KILLS, number):
        assert not found, what
