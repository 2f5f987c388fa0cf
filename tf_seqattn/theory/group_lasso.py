"""The group LASSO: its minimizer, with a certificate."""

import numpy as np

from tf_seqattn.theory.problems import LeastSquares


def norms_of(coefficients: np.ndarray) -> np.ndarray:
    """Norms `(groups,)` of coefficients `(groups, size)`."""
    return np.linalg.norm(coefficients, axis=1)


def critical_penalty(
    problem: LeastSquares, coefficients: np.ndarray, free: np.ndarray
) -> float:
    """The penalty `tau` below which a group enters: the largest norm of a gradient.

    Args:
      problem: the loss.
      coefficients: a minimizer with no group outside `free`.
      free: bool `(groups,)`: those without a penalty.
    """
    norms = norms_of(problem.loss(coefficients)[1])
    return float(np.max(np.where(free, 0.0, norms)))


def shrink_groups(coefficients: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Shortens each group by a length, to 0 at most.

    Args:
      coefficients: `(groups, size)`.
      by: `(groups,)`.

    Example:

    >>> shrink_groups(np.array([[3.0, 4.0], [0.6, 0.8]]), np.ones(2)).round(2).tolist()
    [[2.4, 3.2], [0.0, 0.0]]
    """
    norms = norms_of(coefficients)
    left = np.maximum(0.0, 1.0 - by / np.maximum(norms, np.finfo(float).tiny))
    return coefficients * left[:, None]


def group_lasso(
    problem: LeastSquares,
    penalty: float,
    free: np.ndarray | None = None,
    tolerance: float = 1e-9,
    max_iter: int = 100_000,
) -> np.ndarray:
    """Minimizes the loss plus `penalty` times the norms, by accelerated proximal steps.

    Args:
      problem: the loss.
      penalty: 0 or more.
      free: bool `(groups,)`: those without a penalty; none by default.
      tolerance: largest violation of the optimality conditions, see `violation`.
      max_iter: steps.

    Returns:
      The minimizer `(groups, size)`.

    Raises:
      ValueError: if the tolerance is not reached in `max_iter` steps.
    """
    flat = problem.features.reshape(len(problem.targets), -1)
    smoothness = np.linalg.norm(flat, 2) ** 2 / len(flat)
    free = np.zeros(problem.shape[0], bool) if free is None else free
    by = np.where(free, 0.0, penalty / smoothness)
    found = ahead = np.zeros(problem.shape)
    speed = 1.0
    for step in range(max_iter):
        if step % 20 == 0 and violation(problem, found, penalty, free) <= tolerance:
            return found
        moved = shrink_groups(ahead - problem.loss(ahead)[1] / smoothness, by)
        if np.sum((ahead - moved) * (moved - found)) > 0:
            # The momentum points uphill: begin it anew.
            speed = 1.0
        faster = (1 + np.sqrt(1 + 4 * speed**2)) / 2
        ahead = moved + (speed - 1) / faster * (moved - found)
        found, speed = moved, faster
    raise ValueError(
        f"The group LASSO did not reach a tolerance of {tolerance} in `max_iter` = "
        f"{max_iter} steps: raise either of them."
    )


def violation(
    problem: LeastSquares,
    coefficients: np.ndarray,
    penalty: float,
    free: np.ndarray | None = None,
) -> float:
    """How far the optimality conditions are from being met; 0 at the minimizer.

    The gradient is `-penalty * u / |u|` in a group that is not 0, at most `penalty`
    long in one that is, and 0 in a free one.

    Args:
      problem: the loss.
      coefficients: `(groups, size)`.
      penalty: of each norm.
      free: bool `(groups,)`; none by default.
    """
    free = np.zeros(len(coefficients), bool) if free is None else free
    gradient = problem.loss(coefficients)[1]
    norms = norms_of(coefficients)
    weights = np.where(free, 0.0, penalty)[:, None]
    directions = coefficients / np.maximum(norms, np.finfo(float).tiny)[:, None]
    inside = norms_of(gradient + weights * directions)
    outside = np.maximum(0.0, norms_of(gradient) - weights[:, 0])
    return float(np.max(np.where((norms > 0) | free, inside, outside)))
