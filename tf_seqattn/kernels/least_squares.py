"""Makes up for inputs that are removed, by least squares on the others.

Rows of `X` are inputs `(n, d)`, `W` is the kernel `(d, outputs)`, `K` the inputs that
stay and `P` those that go, as for the optimal brain surgeon. OBSPA (arXiv 2403.18955)
prunes channels in this way.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# Of the mean diagonal of the covariance.
RIDGE = 0.01


class Moments:
    """Mean and covariance of inputs, from batches of them.

    Args:
      size: number of inputs `d`.

    Example:

    >>> moments = Moments(2)
    >>> moments.add(np.array([[1.0, 2.0], [3.0, 2.0]]))
    >>> moments.mean.tolist(), moments.covariance.tolist()
    ([2.0, 2.0], [[1.0, 0.0], [0.0, 0.0]])
    """

    def __init__(self, size: int) -> None:
        self._count = 0
        self._sum = np.zeros(size)
        self._products = np.zeros((size, size))

    def add(self, rows: Array) -> None:
        """Adds a batch `(n, d)`."""
        rows = np.asarray(rows, np.float64)
        self._count += len(rows)
        self._sum += rows.sum(axis=0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> Array:
        """`(d,)`, float64."""
        return self._sum / self._count

    @property
    def covariance(self) -> Array:
        """`(d, d)`, float64."""
        return self._products / self._count - np.outer(self.mean, self.mean)


def reconstructed(
    kernel: Array, mean: Array, covariance: Array, kept: Array, ridge: float = RIDGE
) -> tuple[Array, Array]:
    """The kernel and the change of the bias that best keep the old outputs.

    `W_K' = W_K + (C_KK + l I)^-1 C_KP W_P` minimizes the squared error over centred
    inputs plus `l |W_K' - W_K|^2`, and the bias takes the difference of the means.

    Args:
      kernel: `W`, `(d, outputs)`.
      mean: of the inputs, `(d,)`.
      covariance: `C`, `(d, d)`.
      kept: bool, `(d,)`.
      ridge: `l` as a share of the mean diagonal of `C`.

    Returns:
      The new kernel, with zeros for the inputs that go, and what to add to the bias.

    Example:

    >>> kernel = np.array([[1.0], [1.0]])  # The second input is twice the first one.
    >>> covariance = np.array([[1.0, 2.0], [2.0, 4.0]])
    >>> kept = np.array([True, False])
    >>> new, bias = reconstructed(kernel, np.ones(2), covariance, kept, ridge=0)
    >>> new.tolist(), bias.tolist()
    ([[3.0], [0.0]], [-1.0])
    """
    kernel = np.asarray(kernel, np.float64)
    among_kept = covariance[np.ix_(kept, kept)]
    shift = ridge * np.mean(np.diag(covariance))
    system = among_kept + shift * np.eye(len(among_kept))
    target = covariance[np.ix_(kept, ~kept)] @ kernel[~kept]
    # The inputs of a constant have no variance, so the system may be singular.
    change = np.linalg.lstsq(system, target, rcond=None)[0]
    new = np.zeros_like(kernel)
    new[kept] = kernel[kept] + change
    return new, mean @ (kernel - new)
