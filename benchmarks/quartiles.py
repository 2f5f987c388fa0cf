"""Ratios of times, as the tables of the benchmarks show them."""

import numpy as np


def quartiles(ratios) -> list[float]:
    """The median of ratios, and the quartiles around it.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    [3.0, 2.0, 4.0]
    """
    return [float(q) for q in np.quantile(ratios, [0.5, 0.25, 0.75])]
