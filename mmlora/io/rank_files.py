"""The files in which a rank table leaves a run."""

import io
from pathlib import Path

from ..ranks import RankTable, table_to_csv, table_to_figure, table_to_snippet
from .atomic import write_bytes, write_text


def write_exports(table: RankTable, folder: str | Path, title: str = 'Ranks') -> dict[str, Path]:
    """Write ``ranks.json``, ``ranks.csv``, ``ranks.png`` and ``ranks_config.py``; return the files by their kind."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    table_to_figure(table, title).savefig(picture, format='png', dpi=120)
    return {
        'json': write_text(folder / 'ranks.json', table.dumps()),
        'csv': write_text(folder / 'ranks.csv', table_to_csv(table)),
        'png': write_bytes(folder / 'ranks.png', picture.getvalue()),
        'config': write_text(folder / 'ranks_config.py', table_to_snippet(table)),
    }
