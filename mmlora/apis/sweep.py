"""Many runs, each in a process of its own: what ``tools/sweep.py`` calls. See docs/sweeps.md.

A sweep may be killed at any time and started again. Runs whose files bear out that they are done are skipped, others
go on from their last checkpoint; training resumes exactly, so that the results are those of a sweep that was not
killed.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from ..plain_json import parse_json
from ..progress import progress_line
from .collected import METRIC
from .sweep_engines import ENGINES, Launch, Resources, threads_of
from .sweep_lock import lock_folder
from .sweep_plan import Grid, Job, make_jobs, points
from .sweep_state import (
    DONE,
    FAILED,
    LOG,
    change_of,
    describe_job,
    doubt,
    last_checkpoint,
    read_state,
    write_state,
)
from .sweep_summary import several_tables, write_summary
from .sweep_tune import Choice, Tuning, choices_table, choose, final_jobs, tuning_jobs

PLAN = 'sweep.json'
LOCK = '.sweep.lock'
REPLACED = 'replaced'
FORMAT = 'mmlora sweep 1'
WAITING = 'waiting'


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
        grid: The runs that are tested.
        tuning: Settings to choose on validation images before; None for none.
        metrics: Metrics of the tables; see :func:`mmlora.apis.sweep_summary.write_summary`.
    """

    grid: Grid
    tuning: Tuning | None = None
    metrics: tuple[str, ...] = ()


@dataclass
class Report:
    """What became of a sweep.

    Attributes:
        done: Names of the runs that are done.
        failed: Name of a run -> why it failed, and the last lines that it wrote.
        summary: The tables, as Markdown.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    summary: str = ''


@dataclass(frozen=True)
class How:
    """How the runs of a sweep are done.

    Attributes:
        engine: Key of :data:`mmlora.apis.sweep_engines.ENGINES`.
        resources: What they may use.
        retry_failed: Whether runs that failed before are tried again.
        restart_changed: Whether runs whose config has changed are done anew; what their folders hold is moved to
            ``replaced``.
        say: Gets a line about each run.
    """

    engine: str = 'local'
    resources: Resources = Resources()
    retry_failed: bool = False
    restart_changed: bool = False
    say: Callable[[str], None] = logging.getLogger('mmlora').info

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f'the engine must be one of {", ".join(ENGINES)}, got {self.engine!r}')
        if self.engine != 'local' and self.resources.gpus:
            raise ValueError('GPUs are named for the local engine only; another engine is asked for a number of them '
                             'for each run (--gpus-per-job)')


def sweep(plan: Plan, work_dir: str | os.PathLike, how: How | None = None) -> Report:
    """Do all runs of a sweep that are not done yet, and write its tables.

    Args:
        plan: The runs.
        work_dir: Folder of the sweep; it is kept by one sweep at a time.
        how: How they are done.

    Returns:
        What became of them. Failed runs do not stop the others.

    Raises:
        ValueError: The plan cannot be used, or runs in the folder have changed.
        FileNotFoundError: A config does not exist.
        RuntimeError: Another sweep uses the folder.
        ImportError: The engine needs a package that is not installed.
    """
    how, work_dir, report = how or How(), Path(work_dir).resolve(), Report()
    tuning = tuning_jobs(plan.grid, plan.tuning) if plan.tuning else []
    jobs = [] if plan.tuning else _jobs_of(plan.grid)
    with lock_folder(work_dir, LOCK):
        write_text(work_dir / PLAN, json.dumps(_plan_to_dict(plan), indent=1) + '\n')
        if plan.tuning:
            _do([job for *_, job in tuning], work_dir, how, report)
            choices = choose(tuning, work_dir, plan.tuning.metric)
            _note_choices(choices, plan, work_dir, how)
            jobs = final_jobs(plan.grid, choices)
        _do(jobs, work_dir, how, report)
        report.summary = summary_of(plan, work_dir)
    return report


def summary_of(plan: Plan, work_dir: str | os.PathLike) -> str:
    """Write the tables of a sweep from the runs that are done, and return them as Markdown.

    Raises:
        ValueError: A results file is broken, or no result has the metric.
    """
    work_dir, above = Path(work_dir), ''
    if plan.tuning:
        choices = choose(tuning_jobs(plan.grid, plan.tuning), work_dir, plan.tuning.metric)
        jobs, above = final_jobs(plan.grid, choices), choices_table(choices, plan.tuning.metric)
    else:
        jobs = _jobs_of(plan.grid)
    return write_summary(jobs, work_dir, plan.metrics, above, several_tables(plan.grid))


def look(plan: Plan, work_dir: str | os.PathLike, how: How | None = None) -> list[str]:
    """Return a line on each run: what the folder holds of it, and whether it would be done; nothing is changed.

    Of a sweep with tuning these are the tuning runs, and the final runs of what is chosen already.
    """
    how, work_dir = how or How(), Path(work_dir).resolve()
    if plan.tuning:
        rows = tuning_jobs(plan.grid, plan.tuning)
        jobs = [job for *_, job in rows] + final_jobs(plan.grid, choose(rows, work_dir, plan.tuning.metric))
    else:
        jobs = _jobs_of(plan.grid)
    return [f'{job.name}: {" ".join(_judge(job, work_dir / job.name, how))}' for job in jobs]


def read_plan(work_dir: str | os.PathLike) -> Plan:
    """Return the plan of the sweep that a folder holds.

    Raises:
        FileNotFoundError: The folder holds none.
        ValueError: Its file cannot be used.
    """
    path = Path(work_dir) / PLAN
    if not path.is_file():
        raise FileNotFoundError(f'{work_dir} holds no sweep (no {PLAN}): name a sweep file or configs')
    try:
        stored = parse_json(path.read_text(encoding='utf-8'))
        if stored['format'] != FORMAT:
            raise KeyError('format')
        tuning = Tuning(**stored['tuning']) if stored['tuning'] else None
        grid = Grid(tuple(map(Path, stored['configs'])), stored['options'])
        return Plan(grid, tuning, tuple(stored['metrics']))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} was not written by a sweep of this format, {FORMAT!r} ({type(error).__name__}: '
                         f'{error}): name a sweep file or configs') from error


def _plan_to_dict(plan: Plan) -> dict[str, Any]:
    tuning = plan.tuning and {name: getattr(plan.tuning, name) for name in ('options', 'metric', 'seeds', 'fixed')}
    return dict(format=FORMAT, configs=[str(config) for config in plan.grid.configs], options=dict(plan.grid.options),
                tuning=tuning, metrics=list(plan.metrics))


def _jobs_of(grid: Grid) -> list[Job]:
    return make_jobs([(config, point) for config in grid.configs for point in points(grid.options)])


def _do(jobs: Sequence[Job], work_dir: Path, how: How, report: Report) -> None:
    """Do the runs that need it, one process each."""
    verdicts = {job.name: _judge(job, work_dir / job.name, how) for job in jobs}
    changed = {name: why for name, (verdict, why) in verdicts.items() if verdict == 'changed'}
    if changed and not how.restart_changed:
        raise ValueError(f'{len(changed)} runs in {work_dir} were made by other settings than those of now, so they '
                         'are neither skipped nor gone on with:\n' + ''.join(
                             f'  {name}: {why}\n' for name, why in changed.items())
                         + 'Give another folder (--work-dir), or do them anew with --restart-changed, which moves what '
                         f'is there to {work_dir / REPLACED}.')
    todo = {}
    for job in jobs:
        verdict, why = verdicts[job.name]
        folder = work_dir / job.name
        if verdict == 'changed':
            _move_aside(folder, work_dir)
        if verdict in ('skip', 'failed'):
            _note(job.name, folder, report)
            continue
        known = read_state(folder) or {}
        write_state(folder, **describe_job(job), status=WAITING, attempts=known.get('attempts', 0))
        todo[str(folder)] = job
        if verdict != 'new':
            how.say(f'{job.name}: {why}')
    skipped = len(jobs) - len(todo)
    how.say(f'{len(todo)} runs to do, {skipped} of {len(jobs)} are ended already.')
    threads = {'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS') or str(threads_of(how.resources, how.engine))}
    if how.resources.threads is not None:
        threads['OMP_NUM_THREADS'] = str(how.resources.threads)
    launches = [Launch(folder, os.getcwd(), how.resources.program, threads) for folder in todo]
    if not launches:
        return
    with (closing(ENGINES[how.engine](launches, how.resources)) as ended,
          progress_line('run', len(launches), ticking=True) as line):
        for number, folder in enumerate(ended, 1):
            job = todo[folder]
            state = _note(job.name, Path(folder), report)
            how.say(f'[{number}/{len(todo)}] {job.name}: {_say(state, Path(folder))}')
            line.update(number, **_newest(state), failed=len(report.failed) or None)


def _judge(job: Job, folder: Path, how: How) -> tuple[str, str]:
    """Return what is to be done about a run, and why: ``new``, ``again``, ``skip``, ``failed`` or ``changed``."""
    state = read_state(folder)
    if state is None:
        return 'new', 'not begun'
    change = change_of(job, state)
    if change and state.get('attempts'):
        return 'changed', change
    status = state['status']
    if status == DONE:
        why = doubt(folder, state)
        return ('again', f'marked as done, but {why}: done again') if why else ('skip', 'done')
    if status == FAILED and not how.retry_failed:
        return 'failed', f'failed before ({state.get("reason")}); --retry-failed tries again'
    try:
        checkpoint = last_checkpoint(folder)
    except ValueError as error:
        return 'again', str(error)  # The run itself says what to do; others must not wait for it.
    if checkpoint is not None and checkpoint.is_file():
        return 'again', f'goes on from {checkpoint.name}'
    return ('again', 'begun, but without a checkpoint: from the start') if state.get('attempts') else ('new', status)


def _note(name: str, folder: Path, report: Report) -> Mapping[str, Any]:
    state = read_state(folder) or {}
    if state.get('status') == DONE:
        report.done.append(name)
    else:
        report.failed[name] = (state.get('reason') or 'not run', state.get('tail') or '')
    return state


def _say(state: Mapping[str, Any], folder: Path) -> str:
    if state['status'] == DONE:
        metrics = ', '.join(f'{key} {value:.2f}' for key, value in state['metrics'].items()
                            if isinstance(value, int | float))
        return f'{metrics} ({state["measure"]}), {state["seconds"]:.0f} s'
    lines = (state.get('tail') or '').strip().splitlines()
    return f'FAILED, {state.get("reason")}: {lines[-1] if lines else "no output"} (see {folder / LOG})'


def _newest(state: Mapping[str, Any]) -> dict[str, float]:
    """Return the first metric of a run that is done."""
    numbers = {name: value for name, value in (state.get('metrics') or {}).items() if isinstance(value, float | int)}
    return dict([next(iter(numbers.items()))]) if numbers else {}


def _move_aside(folder: Path, work_dir: Path) -> None:
    state = read_state(folder) or {}
    first = target = work_dir / REPLACED / f'{state["name"]}_{state["key"]}'
    number = 1
    while target.exists():  # Replaced before, as when a setting is changed there and back; results are never deleted.
        number += 1
        target = first.with_name(f'{first.name}_{number}')
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(folder, target)


def _note_choices(choices: Sequence[Choice], plan: Plan, work_dir: Path, how: How) -> None:
    rows = [dict(config=str(c.config), about=dict(c.about), setting=c.setting, means=c.means, runs=c.runs)
            for c in choices]
    write_text(work_dir / 'choices.json', json.dumps(rows, indent=1) + '\n')
    how.say(choices_table(choices, plan.tuning.metric if plan.tuning else METRIC))
