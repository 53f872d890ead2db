"""Choosing settings on validation images, for each config and each reported setting such as the number of shots.

Tuning runs train with every setting of a grid, with seeds and maybe data splits of their own, and are measured on
validation images alone. The setting of the best mean is then trained with the final seeds, and only these runs are
tested. This is the protocol of Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv 2203.12119) on VTAB-1k: the grid on
800 images, measured on the other 200, then final runs on all 1000, whose last epoch is tested.
"""

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sweep_plan import JOIN, Grid, Job, make_jobs, points, seed_key
from .sweep_state import DONE, read_state

POOLED = ('split', )
"""Settings over which a choice is made together, beside the seed: they repeat a run."""
Point = Mapping[str, Any]


@dataclass(frozen=True)
class Tuning:
    """What is chosen, and how.

    Attributes:
        options: The settings to choose from, values by dotted key.
        metric: The metric on validation images, of which more is better.
        seeds: Seeds of the tuning runs.
        fixed: Settings of the tuning runs alone, such as the split that they train on.
    """

    options: Mapping[str, Sequence[Any]]
    metric: str
    seeds: Sequence[int]
    fixed: Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """The setting that was chosen for a config and what is reported apart, such as the number of shots.

    Attributes:
        config: The config file.
        about: What is reported apart.
        setting: The best setting; None while tuning runs are missing.
        means: Setting, as text -> mean of the metric.
        runs: Number of tuning runs that have ended, and of those that are needed.
    """

    config: Path
    about: Point
    setting: Point | None
    means: Mapping[str, float]
    runs: tuple[int, int]


def tuning_jobs(grid: Grid, tuning: Tuning) -> list[tuple[Path, Point, Point, Job]]:
    """Return the tuning runs: config, what is reported apart, setting and run.

    Raises:
        ValueError: A setting is both chosen and reported, or a config has no validation data.
    """
    both = {part for key in tuning.options for part in key.split(JOIN)} & {
        part for key in grid.options for part in key.split(JOIN)}
    if both:
        raise ValueError(f'{", ".join(sorted(both))} cannot be chosen (--tune) and reported apart (--set, sweep file) '
                         'in one sweep')
    seed = seed_key(grid.options)
    reported = {key: values for key, values in grid.options.items() if key != seed}
    rows = []
    for config, point, setting, number in itertools.product(
            grid.configs, points(reported), points(tuning.options), tuning.seeds):
        about = {key: value for key, value in point.items() if key not in POOLED}
        rows.append((config, about, setting, {**point, **setting, seed: number}))
    jobs = make_jobs([(config, point) for config, _, _, point in rows], prefix='tune', measure='val',
                     fixed=tuning.fixed)
    return [(config, about, setting, job) for (config, about, setting, _), job in zip(rows, jobs, strict=True)]


def choose(rows: Sequence[tuple[Path, Point, Point, Job]], work_dir: Path, metric: str) -> list[Choice]:
    """Return the best setting for each config and what is reported apart; the first of the grid where means are equal.

    Args:
        rows: What :func:`tuning_jobs` returns.
        work_dir: Folder of the sweep.
        metric: The metric. A run in which it is not defined makes its setting the worst.

    Raises:
        ValueError: A run has no such metric.
    """
    groups: dict[tuple, list] = {}
    for config, about, setting, job in rows:
        groups.setdefault((config, json.dumps(about)), []).append((about, setting, job))
    choices = []
    for (config, _), members in groups.items():
        values: dict[str, list[float]] = {}
        for _, setting, job in members:
            state = read_state(work_dir / job.name) or {}
            if state.get('status') == DONE and state['key'] == job.key:
                values.setdefault(say_point(setting), []).append(_value(state, metric))
        ended = sum(map(len, values.values()))
        means = {text: statistics.fmean(found) for text, found in values.items()}
        best = None
        if ended == len(members):
            settings = {say_point(setting): setting for _, setting, _ in members}
            best = settings[max(means, key=means.get)]
        choices.append(Choice(config, members[0][0], best, means, (ended, len(members))))
    return choices


def final_jobs(grid: Grid, choices: Sequence[Choice]) -> list[Job]:
    """Return the final runs, with the chosen settings; none for what nothing was chosen for."""
    chosen = {(choice.config, json.dumps(choice.about)): choice.setting for choice in choices}
    pairs = []
    seed = seed_key(grid.options)
    for config, point in itertools.product(grid.configs, points(grid.options)):
        about = {key: value for key, value in point.items() if key not in (*POOLED, seed)}
        setting = chosen[config, json.dumps(about)]
        if setting is not None:
            pairs.append((config, {**point, **setting}))
    return make_jobs(pairs, prefix='final')


def choices_table(choices: Sequence[Choice], metric: str) -> str:
    """Return the choices as a Markdown table."""
    lines = [f'Chosen by {metric} on validation images:', '', '| config | | runs | chosen | mean | others |',
             '|---|---|---|---|---|---|']
    for choice in choices:
        chosen = say_point(choice.setting) if choice.setting is not None else 'nothing yet'
        others = ', '.join(f'{text}: {mean:.2f}' for text, mean in choice.means.items() if text != chosen)
        mean = f'{choice.means[chosen]:.2f}' if chosen in choice.means else '–'
        lines.append(f'| {choice.config.stem} | {say_point(choice.about)} | {choice.runs[0]} of {choice.runs[1]} | '
                     f'{chosen} | {mean} | {others} |')
    return '\n'.join(lines) + '\n'


def say_point(point: Point) -> str:
    """Return settings as text, such as ``optimizer.lr=0.001``."""
    return ', '.join(f'{".".join(key.split(JOIN)[0].split(".")[-2:])}={value}' for key, value in point.items())


def _value(state: Mapping[str, Any], metric: str) -> float:
    if metric not in state['metrics']:
        raise ValueError(f'{state["name"]} has no metric {metric!r} to choose by; there are '
                         f'{", ".join(sorted(state["metrics"]))}')
    value = state['metrics'][metric]
    return -math.inf if value is None or math.isnan(value) else float(value)
