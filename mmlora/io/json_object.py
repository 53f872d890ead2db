"""JSON files that hold an object."""

from pathlib import Path
from typing import Any

from ..plain_json import parse_json


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: The file.
        remedy: What to do about a damaged one, for the message.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, or no object.
    """
    try:
        content = parse_json(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}): {remedy}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold an object, got a {type(content).__name__}: {remedy}')
    return content
