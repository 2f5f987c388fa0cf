"""Orthogonal matching pursuit with replacement through a penalty (algorithm 2).

A support of `k'` groups has no penalty. The penalty on the others, just below the one
at which all of them stay 0, lets one group appear. It enters, and the smallest group of
the support goes. By theorem 1.1 any penalty of its kind lets the same group appear as
the group LASSO, which is the one used here.
"""

import math

import numpy as np

from tf_seqattn.theory.group_lasso import critical_penalty, group_lasso, norms_of
from tf_seqattn.theory.problems import LeastSquares

# Of the critical penalty.
_JUST_BELOW = 0.999


def entering_group(problem: LeastSquares, support: np.ndarray) -> int | None:
    """The group that appears under a penalty just below the critical one.

    Args:
      problem: the loss.
      support: bool `(groups,)`: those without a penalty.

    Returns:
      The group, or None where the gradient is 0.
    """
    critical = critical_penalty(problem, problem.fit(support), support)
    if critical < 1e-10:
        return None
    found = group_lasso(
        problem, _JUST_BELOW * critical, support, tolerance=1e-7 * critical
    )
    return int(np.argmax(np.where(support, 0.0, norms_of(found))))


def replace_rounds(
    problem: LeastSquares, support: np.ndarray, rounds: int
) -> list[float]:
    """Runs algorithm 2.

    Args:
      problem: the loss.
      support: bool `(groups,)`, the first one.
      rounds: how many replacements.

    Returns:
      The loss of the refitted support before each round and after the last one.
    """
    support = support.copy()
    losses = [problem.loss(problem.fit(support))[0]]
    for _ in range(rounds):
        entering = entering_group(problem, support)
        if entering is not None:
            norms = norms_of(problem.fit(support))
            support[np.argmin(np.where(support, norms, np.inf))] = False
            support[entering] = True
        losses.append(problem.loss(problem.fit(support))[0])
    return losses


def curvatures(problem: LeastSquares) -> tuple[float, float]:
    """Least and largest curvature of the loss, which bound the restricted ones.

    Returns:
      `(mu, L)`: those of all groups, at most `mu_(k + k')` and at least `L_2`.
    """
    flat = problem.features.reshape(len(problem.targets), -1)
    values = np.linalg.eigvalsh(flat.T @ flat / len(flat))
    return float(values[0]), float(values[-1])


def needed_support(wanted: int, condition: float) -> int:
    """`k'` of theorem B.3: `k (kappa^2 + 1)`, rounded up.

    Args:
      wanted: `k`, the groups of the solution that is compared with.
      condition: `kappa`, at least `L_2 / mu_(k + k')`.

    Example:

    >>> needed_support(2, 1.5)
    7
    """
    return math.ceil(wanted * (condition**2 + 1))


def needed_rounds(wanted: int, condition: float, gap: float, within: float) -> int:
    """Rounds of theorem B.3: `k kappa log(gap / epsilon)`, rounded up.

    Args:
      wanted: `k`.
      condition: `kappa`.
      gap: the first loss less the best one of `k` groups.
      within: `epsilon`, the excess that is allowed at the end.

    Example:

    >>> needed_rounds(2, 1.5, 1.0, 0.01)
    14
    """
    return max(0, math.ceil(wanted * condition * math.log(gap / within)))
