"""Lines that cannot be read: counted, the first ones quoted, an error past a limit."""

import pathlib
from typing import NamedTuple

NUM_QUOTED = 5
_LONGEST_QUOTE = 80


class BadRow(NamedTuple):
    """A line that could not be read.

    Attributes:
      line: its number, from 1, counted from where the reading began.
      reason: what is wrong with it.
      text: the line, shortened.
    """

    line: int
    reason: str
    text: str


class TooManyBadRows(ValueError):
    """More lines are bad than the user puts up with."""


class BadRows:
    """The bad rows of one file, or of a part of it.

    Args:
      limit: number of bad rows that is put up with.

    Attributes:
      count: number of bad rows.
      quoted: the first of them.

    Example:

    >>> bad = BadRows(limit=1)
    >>> bad.add(7, b"x", "1 columns instead of 40")
    >>> bad.quoted
    [BadRow(line=7, reason='1 columns instead of 40', text='x')]
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.count = 0
        self.quoted: list[BadRow] = []

    def add(self, line: int, content: bytes, reason: str) -> None:
        """Notes a line.

        Raises:
          TooManyBadRows: if it is one too many.
        """
        self.count += 1
        if len(self.quoted) < NUM_QUOTED:
            text = content.decode("utf-8", errors="replace")
            if len(text) > _LONGEST_QUOTE:
                text = text[: _LONGEST_QUOTE - 3] + "..."
            self.quoted.append(BadRow(int(line), reason, text))
        if self.count > self.limit:
            raise TooManyBadRows(f"{self.count} bad rows")


def quote(path: pathlib.Path | str, row: BadRow, lines_before: int = 0) -> str:
    """Returns `file:line: reason: 'text'`.

    Args:
      path: of the file.
      row: what is wrong.
      lines_before: lines of the file before the part that was read.

    Example:

    >>> quote("a.txt", BadRow(2, "bad label", "x"), lines_before=10)
    "a.txt:12: bad label: 'x'"
    """
    return f"{path}:{lines_before + row.line}: {row.reason}: {row.text!r}"


def describe(count: int, limit: int, quotes: list[str]) -> str:
    """Returns what to tell the user of bad rows.

    Args:
      count: number of bad rows.
      limit: number that is put up with.
      quotes: of the first ones, from `quote`.
    """
    listed = "\n".join(f"  {text}" for text in quotes[:NUM_QUOTED])
    noun = "bad row" if count == 1 else "bad rows"
    return f"{count} {noun} left out (max_bad_rows={limit}), such as\n{listed}"
