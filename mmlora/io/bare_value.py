"""A tensor or a list that published code has pickled by itself, without a checkpoint around it."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch

from .limits import check_content, check_packed


def read_bare_value(path: Path, wanted: str, missing: str) -> Any:
    """Read the value of a file; nothing of it is run.

    Args:
        path: The file.
        wanted: What it should hold, for the message, as in ``'a tensor'``.
        missing: What it is for, for the message where there is no such file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds something that only running it would tell, or claims to be huge.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist: {missing}')
    try:
        check_packed(path)
        value = torch.load(path, map_location='cpu', weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, OSError,
            BadZipFile) as error:
        reason = (str(error).strip().splitlines() or [''])[0][:200]
        raise ValueError(f'{path} is refused: it holds more than {wanted}, or is damaged ({type(error).__name__}: '
                         f'{reason})') from error
    check_content(value, path)
    return value
