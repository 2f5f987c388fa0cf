"""Means over seeds with their standard errors."""

import math
from collections.abc import Sequence

import numpy as np


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of the values of all seeds, and its standard error.

    Two arms are compared seed by seed: give it their differences, and what the seeds
    have in common is not counted as error.

    Args:
      values: `(seeds,)`, one for each seed.

    Returns:
      The mean, and the standard deviation (of a sample) over the root of the number
      of seeds, in the unit of `values`; NaN for the error of a single value.

    Example:

    >>> mean_and_error([1.0, 3.0])
    (2.0, 1.0)
    >>> ours, theirs = np.array([1.0, 2.0]), np.array([0.0, 1.0])
    >>> mean_and_error(ours - theirs)
    (1.0, 0.0)
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def mean_and_error_text(
    values: Sequence[float] | np.ndarray, digits: int = 4, *, signed: bool = False
) -> str:
    """The same as the cell of a table.

    Args:
      values: `(seeds,)`, one for each seed.
      digits: after the point.
      signed: whether a mean above 0 has its sign too, as a difference should.

    Example:

    >>> mean_and_error_text([1.0, 3.0], 1)
    '2.0 ± 1.0'
    >>> mean_and_error_text(np.array([1.0, 2.0]) - np.array([0.0, 1.0]), signed=True)
    '+1.0000 ± 0.0000'
    """
    mean, error = mean_and_error(values)
    return f"{mean:{'+' if signed else ''}.{digits}f} ± {error:.{digits}f}"
