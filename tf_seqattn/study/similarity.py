"""How alike the outputs of two networks are."""

import numpy as np


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Linear centred kernel alignment of two sets of outputs for the same rows.

    Args:
      one: `(rows, outputs)`.
      other: `(rows, outputs)`; it may have another number of outputs.

    Returns:
      From 0 to 1; 1 for outputs that differ by a rotation, a scale and a shift alone.

    Example:

    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 6)
    1.0
    """
    one, other = (x - x.mean(axis=0) for x in (one, other))
    cross = np.linalg.norm(one.T @ other) ** 2
    return float(
        cross / (np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other))
    )
