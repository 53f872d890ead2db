"""What a checkpoint was measured to do, with intervals: its last validation, and the tests recorded beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine.adapter_folder import VALIDATION, result_row
from .records import RESULTS, read_records, sha256_of


def result_rows(
    trained: Mapping[str, Any], checkpoint: str, protocol: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the last validation of a checkpoint, and the tests of this very file that are recorded beside it."""
    scalars = (trained.get('message_hub') or {}).get('log_scalars') or {}
    validated = ((protocol or {}).get('validation') or {}).get('images')
    rows = [result_row(VALIDATION, name.removeprefix('val/'), float(buffer.current()), validated)
            for name, buffer in scalars.items()
            if name.startswith('val/') and not name.endswith('time') and len(buffer.data[0])]
    path = Path(checkpoint).expanduser()
    entries = read_records(path.parent / RESULTS) if (path.parent / RESULTS).is_file() else []
    digest = sha256_of(path) if entries else None  # Another run may have used the folder, and the name, since.
    for entry in entries:
        if entry['checkpoint'].get('sha256') == digest:
            rows += [result_row(f'{entry["dataset_name"]} test', name, value, entry['test']['images'])
                     for name, value in entry['metrics'].items() if isinstance(value, int | float)]
    return rows
