"""Tables as Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(
    titles: Sequence[str], rows: Iterable[Sequence[str | int | None]]
) -> str:
    """Lays out a table as Markdown.

    Args:
      titles: one for each column.
      rows: the cells of each line; None is a dash.

    Returns:
      The lines of the table, each with its end.

    Raises:
      ValueError: if a row has another number of cells than there are titles.

    Example:

    >>> print(markdown_table(["model", "AUC"], [["dense", "0.84"], ["best", None]]))
    | model | AUC |
    |---|---|
    | dense | 0.84 |
    | best | – |
    <BLANKLINE>
    """
    lines = [_line(titles), "|---" * len(titles) + "|\n"]
    for row in rows:
        if len(row) != len(titles):
            raise ValueError(
                f"A row must have {len(titles)} cells, one for each title. Received: "
                f"{list(row)!r}"
            )
        lines.append(_line(["–" if cell is None else str(cell) for cell in row]))
    return "".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
