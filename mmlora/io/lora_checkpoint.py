"""The folder of a LoRA as a checkpoint of the factors alone; whoever knows the model adds the frozen weights."""

import os
from pathlib import Path
from typing import Any

from ..adapters.lora_spec import lora_tensors
from .json_object import read_object
from .lora_folder import CONFIG, DAMAGED, FORMAT, RECORD, read_lora_folder
from .lora_names import own_names

LORA = 'mmlora_lora'
"""Key under which a checkpoint says where it is from, the hash of the frozen weights, the scalings, and the head."""


def is_lora_folder(path: str | os.PathLike) -> bool:
    """Return whether a path is a folder of a LoRA, as :mod:`.lora_folder` writes it."""
    folder = Path(path).expanduser()
    return ((folder / CONFIG).is_file() and (folder / RECORD).is_file()
            and read_object(folder / RECORD, DAMAGED).get('format') == FORMAT)


def lora_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Return a folder of a LoRA as a checkpoint: the factors by their names in an adapted backbone.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged.
    """
    found = read_lora_folder(path)
    weights = own_names(found.weights) if found.record.get('library') else found.weights
    scalings = {f'{site}.{part}' if part else site: pair.scaling for (site, part), pair in weights.items()}
    about = dict(folder=str(found.path), sha256=(found.record.get('base') or {}).get('sha256'), scalings=scalings,
                 head=found.head and found.head._asdict())
    return dict(state_dict=lora_tensors(weights), meta={}, **{LORA: about})
