"""The files in which a rank table leaves a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ranks import RankTable, table_to_csv, table_to_figure, table_to_snippet
from .atomic import write_atomically, write_text


def write_exports(
    table: RankTable, folder: str | Path, title: str = 'Ranks', peft: Mapping[str, Any] | None = None
) -> dict[str, Path]:
    """Write ``ranks.json``, ``ranks.csv``, ``ranks.png`` and ``ranks_config.py``; return the files by their kind.

    Args:
        table: The ranks.
        folder: Made if it does not exist.
        title: Of the picture.
        peft: Arguments of ``peft.LoraConfig`` as :func:`mmlora.io.peft_config.peft_config` returns them, for
            ``peft_config.json``; None writes no such file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure = table_to_figure(table, title)
    files = {
        'json': write_text(folder / 'ranks.json', table.dumps()),
        'csv': write_text(folder / 'ranks.csv', table_to_csv(table)),
        'png': write_atomically(folder / 'ranks.png', lambda file: figure.savefig(file, format='png', dpi=120)),
        'config': write_text(folder / 'ranks_config.py', table_to_snippet(table)),
    }
    if peft is not None:
        files['peft'] = write_text(folder / 'peft_config.json', json.dumps(dict(peft), indent=1) + '\n')
    return files
