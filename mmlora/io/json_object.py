"""JSON files that hold an object."""

from pathlib import Path
from typing import Any

from ..plain_json import parse_json


def read_object(path: Path, remedy: str, form: str | None = None) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: The file.
        remedy: What to do about a damaged one, for the message.
        form: What its field ``format`` has to say; None asks for none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, no object, or of another format.
    """
    try:
        content = parse_json(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}): {remedy}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold an object, got a {type(content).__name__}: {remedy}')
    if form is not None and content.get('format') != form:
        raise ValueError(f'{path} has format={content.get("format")!r}, where {form!r} is expected: {remedy}')
    return content
