"""What is known of each run of a sweep: ``job.json`` in its folder, and whether its files bear it out."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from ..plain_json import parse_json
from .records import check_results, sha256_of
from .resuming import find_resumable, read_pointer
from .sweep_plan import Job, differences

STATE = 'job.json'
LOG = 'job.log'
FORMAT = 'mmlora sweep job 1'
RUNNING, DONE, FAILED, STOPPED = 'running', 'done', 'failed', 'stopped'
MARK = 'sweep_job'
"""Key of the dumped config, and so of the text in each checkpoint, that holds the identity of the run."""
_MARKED = re.compile(rf'^{MARK} = [\'"](\w+)[\'"]', re.MULTILINE)
_SHOWN = 6  # Differences that a message lists.


def read_state(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Return what is known of a run, or None for a folder without any.

    Raises:
        ValueError: Its file cannot be read.
    """
    path = Path(folder) / STATE
    if not path.is_file():
        return None
    try:
        state = parse_json(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}): move the folder away') from error
    if not isinstance(state, dict) or state.get('format') != FORMAT:
        raise ValueError(f'{path} was not written by a sweep (no "format": "{FORMAT}"): move the folder away')
    return state


def write_state(folder: str | os.PathLike, **changes: Any) -> dict[str, Any]:
    """Change some of what is known of a run, in one step; return all of it."""
    state = {**(read_state(folder) or {}), **changes}
    write_text(Path(folder) / STATE, json.dumps(state, indent=1) + '\n')
    return state


def describe_job(job: Job) -> dict[str, Any]:
    """Return what a run's own process needs to know of it, as plain data."""
    return dict(format=FORMAT, name=job.name, key=job.key, config=str(job.config), options=dict(job.options),
                measure=job.measure, settled=job.settled)


def change_of(job: Job, state: Mapping[str, Any]) -> str | None:
    """Say in what the run that a folder holds differs from the one that it is for, or None."""
    if state['key'] == job.key:
        return None
    lines = differences(state['settled'], json.loads(json.dumps(job.settled)))
    more = [f'and {len(lines) - _SHOWN} more'] if len(lines) > _SHOWN else []
    return '; '.join([*lines[:_SHOWN], *more])


def doubt(folder: str | os.PathLike, state: Mapping[str, Any]) -> str | None:
    """Say why a run that is marked as done cannot be skipped, or None where its files bear it out.

    Its checkpoint must be there with the content that was tested, and its result must be of that content.
    """
    folder, known = Path(folder), state['checkpoint']
    path = folder / known['name']
    if not path.is_file():
        return f'its checkpoint {known["name"]} is gone'
    stat = path.stat()
    touched = (stat.st_size, stat.st_mtime_ns) != (known['size'], known['mtime_ns'])
    if touched and sha256_of(path) != known['sha256']:
        return f'its checkpoint {known["name"]} has changed'
    if state['measure'] == 'test' and not any(
            entry['checkpoint'] == {'name': known['name'], 'sha256': known['sha256']}
            and entry['metrics'] == state['metrics'] for entry in check_results(folder)):
        return f'results.json has no result of {known["name"]}'
    return None


def foreign_checkpoint(folder: str | os.PathLike, key: str) -> str | None:
    """Say which checkpoint of a folder, the one a run would go on from, is of another run; None where none is.

    Raises:
        ValueError: It is damaged or gone.
    """
    newest = find_resumable(folder)
    if newest is None:
        return None
    path, checkpoint = newest
    found = _MARKED.search((checkpoint.get('meta') or {}).get('mmlora_cfg_text') or '')
    return None if found and found[1] == key else path


def last_checkpoint(folder: str | os.PathLike) -> Path | None:
    """Return the checkpoint that the pointer of a folder names, in that folder, wherever it was written.

    Raises:
        ValueError: The pointer names nothing.
    """
    path = read_pointer(folder)
    return None if path is None else Path(folder) / path.name
