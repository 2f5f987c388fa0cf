"""Tables of text, as `model.summary()` prints them."""

from collections.abc import Callable, Sequence


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    print_fn: Callable[[str], object] = print,
) -> None:
    """Prints aligned columns under their titles.

    Args:
      titles: one title for each column.
      rows: the cells of each row.
      print_fn: called with each line.

    Example:

    >>> print_table(["layer", "density"], [["dense_1", "10%"]])
    layer    density
    ----------------
    dense_1  10%
    """
    table = [titles, *rows]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(titles))]
    for index, cells in enumerate(table):
        aligned = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        print_fn("  ".join(aligned).rstrip())
        if index == 0:
            print_fn("-" * (sum(widths) + 2 * (len(widths) - 1)))
