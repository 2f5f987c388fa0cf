"""Reading the JSON files of a conversion, with one error for all that are damaged."""

import json
from typing import Any

from tf_seqattn.criteo.log.paths import Path


class Damaged(ValueError):
    """A file of a conversion is not what was written."""


def read_json(path: Path, *keys: str) -> Any:
    """Reads a JSON file.

    Args:
      path: of the file.
      keys: what the object in it must have; without any, it may be any value.

    Raises:
      Damaged: if it is empty, cut off, or has no such keys.
      FileNotFoundError: if there is no such file.

    Example:

    >>> import pathlib, tempfile
    >>> with tempfile.NamedTemporaryFile("w") as file:  # an empty file
    ...     read_json(pathlib.Path(file.name))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tf_seqattn.criteo.log.json_files.Damaged: ... is damaged: it is not JSON...
    """
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Damaged(_text(path, f"it is not JSON ({error})")) from None
    there = content if isinstance(content, dict) else {}
    missing = [key for key in keys if key not in there]
    if missing:
        raise Damaged(_text(path, f"it has no {', '.join(map(repr, missing))}"))
    return content


def _text(path: Path, what: str) -> str:
    return f"{path} is damaged: {what}. {remedy()}"


def remedy() -> str:
    """What to do about a damaged conversion."""
    return (
        "Give the command of the conversion again with --repair, which converts only "
        "what is damaged, or with --overwrite, which begins anew."
    )
