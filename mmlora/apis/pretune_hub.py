"""Make a hub: many LoRAs, each for a task of its own, over one frozen backbone. What ``tools/pretune_hub.py`` calls.

The stage before recycling in LoRA-Recycle (Hu et al., CVPR 2025, section 5): each LoRA learns to tell a few classes
apart. A task, its start and its batches follow from the seed and the number of the task, so that a hub that was stopped
goes on where it was: members that are there are kept, and those of an unfinished group are trained again, together as
before, which gives the same numbers.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..io.atomic import remove_leftovers
from ..io.hub import INDEX, LoRAHub, member_name, member_records, write_index
from ..progress import progress_line, tidy_terminal
from .hub_members import train_groups
from .hub_plan import HubPlan, groups_to_do, hub_identity, settle_hub
from .hub_training import Trained
from .sweep import WAITING
from .sweep_engines import ENGINES, Launch, Resources, threads_of
from .sweep_lock import lock_folder
from .sweep_state import DONE, FORMAT, read_state, write_state

LOCK, GROUPS = '.hub.lock', '.groups'
PROGRAM = (sys.executable, '-m', 'mmlora.apis.hub_job')


@dataclass(frozen=True)
class HubRun:
    """How a hub is made.

    Attributes:
        engine: ``'local'`` or ``'ray'``.
        resources: Of the processes. Without Ray, named GPUs and several workers all is done in this process.
        device: Where the backbone is; None takes a GPU where there is one.
        say: Gets a line about each group.
    """

    engine: str = 'local'
    resources: Resources = Resources()
    device: str | None = None
    say: Callable[[str], None] = logging.getLogger('mmlora').info

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f'the engine must be one of {", ".join(ENGINES)}, got {self.engine!r}')


@dataclass
class HubReport:
    """What became of a hub.

    Attributes:
        hub: The hub, or None where no member is whole.
        failed: Group -> why it failed, and the last lines that it wrote.
    """

    hub: LoRAHub | None = None
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)


@tidy_terminal()
def pretune_hub(
    cfg: Config,
    folder: str | os.PathLike,
    num_loras: int | None = None,
    together: int | None = None,
    run: HubRun | None = None,
) -> HubReport:
    """Train all members of a hub that are not there yet, and write its index.

    Args:
        cfg: The config; it is not changed.
        folder: The hub. It is kept by one process at a time.
        num_loras: Takes the place of ``hub.num_loras``. More than there are adds members, fewer leaves them.
        together: Takes the place of ``hub.together``.
        run: How it is done.

    Returns:
        The hub. Groups that failed in processes of their own do not stop the others.

    Raises:
        ValueError: The config cannot be used, or the folder holds members that were made by other settings.
        RuntimeError: Another process uses the folder.
        ImportError: The engine needs a package that is not installed.
    """
    run, folder = run or HubRun(), Path(folder).resolve()
    cfg = settle_hub(cfg, num_loras, together)
    plan, recipe = HubPlan(**cfg.hub), hub_identity(cfg)
    with lock_folder(folder, LOCK):
        remove_leftovers(folder, [INDEX])
        groups = groups_to_do(plan, recipe, folder)
        total = -(-plan.num_loras // plan.together)
        run.say(f'{folder}: {plan.num_loras} LoRAs in {total} groups, {len(groups)} to do')
        report = HubReport()
        # A GPU that is named is one of a process, which sees no other.
        separate = run.engine != 'local' or (run.resources.workers or 1) > 1 or run.resources.gpus
        (_run_apart if separate else _run_here)(cfg, folder, groups, run, report)
        if member_records(folder):
            report.hub = _index(cfg, folder, recipe)
    return report


def _run_here(cfg: Config, folder: Path, groups: Sequence[list[int]], run: HubRun, report: HubReport) -> None:
    if not groups:
        return
    recipe = hub_identity(cfg)

    def done(trained: list[Trained]) -> None:
        _index(cfg, folder, recipe)
        run.say(', '.join(f'{member_name(one.task.number)}: {one.metrics["accuracy/top1"]:.1f} %' for one in trained))

    train_groups(cfg, folder, groups, run.device, done)


def _run_apart(cfg: Config, folder: Path, groups: Sequence[list[int]], run: HubRun, report: HubReport) -> None:
    """Train each group in a process of its own; see :mod:`mmlora.apis.hub_job`."""
    recipe, launches = hub_identity(cfg), []
    env = {'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS') or str(threads_of(run.resources, run.engine))}
    if run.resources.threads is not None:
        env['OMP_NUM_THREADS'] = str(run.resources.threads)
    for group in groups:
        place = folder / GROUPS / f'{member_name(group[0])}-{member_name(group[-1])}'
        write_state(place, format=FORMAT, name=place.name, status=WAITING, hub=str(folder), numbers=group,
                    device=run.device, config=json.loads(json.dumps(cfg.to_dict(), default=str)))
        launches.append(Launch(str(place), os.getcwd(), PROGRAM, env))
    if not launches:
        return
    with (closing(ENGINES[run.engine](launches, run.resources)) as ended,
          progress_line('group of LoRAs', len(launches), ticking=True) as line):
        for number, place in enumerate(ended, 1):
            state = read_state(place) or {}
            if state.get('status') == DONE:
                _index(cfg, folder, recipe)
                run.say(f'[{number}/{len(launches)}] {Path(place).name}: done, {state["seconds"]:.0f} s')
            else:
                report.failed[Path(place).name] = (state.get('reason') or 'not run', state.get('tail') or '')
                run.say(f'[{number}/{len(launches)}] {Path(place).name}: FAILED, {state.get("reason")}')
            line.update(number, failed=len(report.failed) or None)


def _index(cfg: Config, folder: Path, recipe: Mapping[str, Any]) -> LoRAHub:
    """Write the index of the members that are there."""
    sources = [source['name'] for source in cfg.hub.sources]
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return write_index(folder, name=cfg.get('hub_name') or folder.name, sources=sources, recipe=key,
                       n_way=cfg.hub.get('n_way', HubPlan.n_way), seed=cfg.randomness.seed)
