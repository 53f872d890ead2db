"""The tables of a sweep, from the results that its runs have recorded."""

from collections.abc import Sequence
from pathlib import Path

from ..io.atomic import write_text
from .collected import METRIC
from .records import check_results
from .summarize import summarize
from .sweep_plan import JOIN, LABELS, Grid, Job
from .sweep_state import DONE, FAILED, read_state
from .sweep_tune import say_point
from .tables import to_csv, to_markdown

FILES = ('summary.md', 'summary.csv')
_OTHERS = ('auc/mean', 'multi-label/mAP')  # For data whose tests have no accuracy.
_REPEATS = ('split', 'seed')  # Last words of the settings that repeat a run.
_TOLD = (*LABELS, *_REPEATS, 'shot')  # Last words of the settings that results name, and so a table too.


def several_tables(grid: Grid) -> list[str]:
    """Return the settings, such as the learning rate, that results do not name: each value needs tables of its own."""
    return [key for key, values in grid.options.items()
            if len(values) > 1 and not any(part.rpartition('.')[2] in _TOLD for part in key.split(JOIN))]


def write_summary(
    jobs: Sequence[Job],
    work_dir: Path,
    metrics: Sequence[str] = (),
    above: str = '',
    apart: Sequence[str] = (),
) -> str:
    """Write ``summary.md`` and ``summary.csv`` into the folder of a sweep.

    Args:
        jobs: The runs; results of others in the folder are left out.
        work_dir: The folder.
        metrics: The metrics, a table each; by default accuracy, and ROC-AUC and mAP for data without it.
        above: Text that comes before the tables.
        apart: Settings, each combination of which gets tables of its own.

    Returns:
        The content of ``summary.md``.

    Raises:
        ValueError: A results file is broken, or no result has the metric.
    """
    states = {job.name: read_state(work_dir / job.name) or {} for job in jobs}
    done = [job for job in jobs if states[job.name].get('status') == DONE and states[job.name]['key'] == job.key]
    failed = [job.name for job in jobs if states[job.name].get('status') == FAILED]
    head = f'{len(done)} of {len(jobs)} runs are done' + (f', {len(failed)} have failed.' if failed else '.')
    parts, lines = [f'{head}\n', *([above] if above else [])], []
    groups: dict[str, list[Path]] = {}
    for job in done:
        setting = say_point({key: job.options[key.split(JOIN)[0]] for key in apart})
        groups.setdefault(setting, []).append(work_dir / job.name)
    for setting, folders in groups.items():
        parts += [f'## {setting}\n'] if setting else []
        for metric in metrics or _metrics_of(folders):
            summary = summarize(folders, metric)
            parts.append(to_markdown(summary))
            lines += to_csv(summary).splitlines()[bool(lines):]
    missing = _missing(jobs, {job.name for job in done})
    if missing:
        parts.append('Incomplete:\n\n' + ''.join(f'- {text}\n' for text in missing))
    if failed:
        parts.append('Failed:\n\n' + ''.join(f'- {name}: {states[name].get("reason")}\n' for name in failed))
    text = '\n'.join(parts)
    write_text(work_dir / FILES[0], text)
    write_text(work_dir / FILES[1], '\n'.join(lines) + '\n' if lines else '')
    return text


def _metrics_of(folders: Sequence[Path]) -> list[str]:
    entries = [entry['metrics'] for folder in folders for entry in check_results(folder)]
    rest = [metrics for metrics in entries if METRIC not in metrics]
    found = [METRIC] * (len(rest) < len(entries)) + [name for name in _OTHERS if any(name in one for one in rest)]
    return found or sorted(entries[0])[:1]


def _missing(jobs: Sequence[Job], done: set[str]) -> list[str]:
    groups: dict[str, list[bool]] = {}
    for job in jobs:
        settings = [f'{key.rpartition(".")[2]}={value}' for key, value in job.options.items()
                    if key.rpartition('.')[2] not in _REPEATS]
        groups.setdefault(', '.join([job.config.stem, *settings]), []).append(job.name in done)
    return [f'{text}: {sum(group)} of {len(group)} runs' for text, group in groups.items() if not all(group)]
