"""Finding the blocks of a matrix in its zeros. Plain NumPy."""

import math

import numpy as np

# Sizes tried where the zeros show no exact grid (a kept weight may be zero by chance).
_SIZES = (128, 64, 48, 32, 24, 20, 16, 12, 10, 8, 5, 4)
_MIN_FILL = 0.9


def block_support(matrix: np.ndarray, block_size: tuple[int, int]) -> np.ndarray:
    """Marks the blocks of a matrix that hold anything but zeros.

    Args:
      matrix: array `(rows, columns)`.
      block_size: (rows, columns) of a block.

    Returns:
      bool array `(block rows, block columns)`, partial blocks counted.

    Example:

    >>> block_support(np.eye(4), (2, 2)).tolist()
    [[True, False], [False, True]]
    """
    nonzero = matrix != 0
    for axis, block in enumerate(block_size):
        starts = np.arange(0, matrix.shape[axis], block)
        nonzero = np.logical_or.reduceat(nonzero, starts, axis=axis)
    return nonzero


def _fill(matrix: np.ndarray, block_size: tuple[int, int]) -> float:
    """Share of the entries of the kept blocks that are not zero."""
    support = block_support(matrix, block_size)
    lengths = [
        np.minimum(block, size - block * np.arange(count))
        for block, size, count in zip(
            block_size, matrix.shape, support.shape, strict=True
        )
    ]
    kept = (support * np.outer(*lengths)).sum()
    return np.count_nonzero(matrix) / kept if kept else 1.0


def _exact_period(nonzero: np.ndarray) -> int:
    """The largest spacing at which all changes between neighbouring rows lie."""
    changes = 1 + np.flatnonzero((nonzero[1:] != nonzero[:-1]).any(axis=1))
    return math.gcd(*changes.tolist()) or len(nonzero)


def find_block_size(matrix: np.ndarray, row_divisor: int = 0) -> tuple[int, int] | None:
    """Finds the grid of blocks in the zeros of a matrix.

    Args:
      matrix: array `(rows, columns)`.
      row_divisor: if not 0, a number that the rows of a block must divide, such as
        the input channels of a convolution.

    Returns:
      (rows, columns) of the largest blocks such that at least 9 in 10 entries of the
      kept blocks are not zero. None if there are no zeros or no such blocks. Blocks of
      one row or column are found only if the zeros show them exactly.

    Example:

    >>> find_block_size(np.kron([[1, 0, 1], [0, 0, 1]], np.ones((20, 16))))
    (20, 16)
    """
    nonzero = matrix != 0
    if nonzero.all():
        return None

    def allowed(rows: int) -> int:
        return math.gcd(rows, row_divisor)

    rows, columns = _exact_period(nonzero), _exact_period(nonzero.T)
    exact = (allowed(rows), columns)
    if min(rows, columns) > 1:
        return exact if exact[0] > 1 else None
    pairs = {(allowed(r), c) for r in {rows, *_SIZES} for c in {columns, *_SIZES}}
    pairs = {p for p in pairs if p[0] <= matrix.shape[0] and p[1] <= matrix.shape[1]}
    for pair in sorted(pairs, key=lambda p: (-p[0] * p[1], abs(p[0] - p[1]), p)):
        if min(pair) > 1 and _fill(matrix, pair) >= _MIN_FILL:
            return pair
    # One row or column wide; not where the divisor alone made it so.
    return exact if exact[0] > 1 or rows == 1 < columns else None
