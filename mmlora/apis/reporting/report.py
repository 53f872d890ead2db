"""One self-contained HTML page about what a folder holds. What ``tools/report.py`` calls."""

import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from ...io.atomic import write_text
from ...version import __version__
from ..details import FAILURES
from .files import Folder
from .many import inverted, members, tables
from .page import Missing, Section, render
from .run import about_run, curves, ranks, results
from .tested import confusions, episodes, errors

PAGE = 'report.html'
SECTIONS: dict[str, Callable[[Folder], Section | Missing | None]] = {
    'Results': results,
    'Run': about_run,
    'Curves': curves,
    'Ranks': ranks,
    'Confusion matrix': confusions,
    'Misclassified images': errors,
    'Episodes': episodes,
    'Inverted images': inverted,
    'LoRAs': members,
    'Tables': tables,
}
"""What makes each section, in the order of the page; None where another one speaks for it."""


def write_report(work_dir: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Write one HTML page about a folder: that of a run, a sweep, a hub, a pool of images or a quickstart.

    The page needs no network and runs nothing. Sections whose data are not there are listed at its end with what makes
    them; files that are damaged are named at its top.

    Args:
        work_dir: The folder.
        out: The page; ``report.html`` in the folder by default.

    Returns:
        The page.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds nothing that a page could show, or ``out`` is no ``.html``.
    """
    folder = Folder(Path(work_dir))
    if not folder.path.is_dir():
        raise FileNotFoundError(f'{os.fspath(work_dir)!r} is no folder: name the folder of a run (its --work-dir)')
    out = folder.path / PAGE if out is None else Path(out)
    if out.suffix not in ('.html', '.htm'):
        raise ValueError(f'{os.fspath(out)!r}: the page is written to a file ending in .html')
    sections: list[Section] = []
    missing: list[Missing] = []
    for title, make in SECTIONS.items():
        try:
            made = make(folder)
        except FAILURES as error:  # Files of somebody else; most of these errors name theirs.
            text = str(error) if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: {error}'
            made = Missing(title, text, broken=True)
        if made is not None:
            (sections if isinstance(made, Section) else missing).append(made)
    if not sections and not any(one.broken for one in missing):
        raise ValueError(f'{folder.path} holds nothing to show: no run, sweep, hub, pool of images or quickstart '
                         f'({"; ".join(f"{one.title}: {one.why}" for one in missing)})')
    name = folder.path.resolve().name
    now = datetime.now(timezone.utc).isoformat(sep=' ', timespec='minutes')
    return write_text(out, render(name, sections, missing, f'Made by mmlora {__version__}, {now}, from {folder.path}'))
