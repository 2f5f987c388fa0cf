"""One way to show progress, on a terminal and in a log file."""

import sys

from tqdm import tqdm


def progress_bar(total: int, unit: str, title: str, shown: bool = True) -> tqdm:
    """Returns a progress bar, to be used as a context and given `update(n)`.

    On a terminal it moves; in a log file it leaves a line every 15 seconds at most.

    Args:
      total: how much there is to do, in units.
      unit: name of a unit; bytes ("B") are shown as kB, MB and GB.
      title: what is being done.
      shown: whether to show anything.
    """
    return tqdm(
        total=total,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B",
        desc=title,
        disable=not shown,
        mininterval=0.2 if sys.stderr.isatty() else 15.0,
        maxinterval=0.5 if sys.stderr.isatty() else 15.0,
        ascii=not sys.stderr.isatty(),
    )
