"""Theorem 1.1: penalties that agree with the group LASSO while it selects one group.

The penalty is `q^-1(sum q(norm))`. For `q` that is strictly increasing and subadditive
with `q(0) = 0` it is at least the sum of the norms, and equal to it where at most one
of them is not 0. So if the group LASSO's unique minimizer has at most one nonzero
group, it is the unique minimizer with this penalty as well.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize

from tf_seqattn.theory.group_lasso import norms_of
from tf_seqattn.theory.problems import LeastSquares
from tf_seqattn.theory.regularizers import of_exponential_mask


class Outer(NamedTuple):
    """A function `q` of norms, and its inverse.

    Attributes:
      forward: `q`.
      inverse: `q^-1`.
    """

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


def _inverse_of_exponential_mask(values: np.ndarray) -> np.ndarray:
    """From `W^2 / 4 + W / 2 = value`, and `2 norm^2 = W exp(W)`."""
    lambert = np.sqrt(1.0 + 4.0 * values) - 1.0
    return np.sqrt(lambert * np.exp(lambert) / 2.0)


# All but the last two are subadditive.
OUTERS = {
    "power 2/3": Outer(lambda a: a ** (2 / 3), lambda v: v**1.5),
    "log(1 + norm)": Outer(np.log1p, np.expm1),
    "exponential mask": Outer(of_exponential_mask, _inverse_of_exponential_mask),
    "square": Outer(np.square, np.sqrt),
}


def composite_penalty(norms: np.ndarray, outer: Outer) -> float:
    """`q^-1(sum q(norm))` of norms `(groups,)`.

    Example:

    >>> composite_penalty(np.array([3.0, 4.0]), OUTERS["square"])
    5.0
    """
    return float(outer.inverse(np.sum(outer.forward(norms))))


def least_found(
    problem: LeastSquares,
    penalty: float,
    outer: Outer,
    starts: list[np.ndarray],
) -> tuple[float, np.ndarray]:
    """The lowest point found of the loss with a composite penalty.

    The penalty has kinks and many minima, so every set of groups is minimized on by
    itself, with the others at 0, from each start. For few groups alone.

    Args:
      problem: the loss.
      penalty: of `composite_penalty`.
      outer: its `q`.
      starts: coefficients `(groups, size)`.

    Returns:
      The objective, and the coefficients.
    """
    groups, size = problem.shape
    best = problem.loss(np.zeros(problem.shape))[0], np.zeros(problem.shape)
    for chosen in range(1, 2**groups):
        inside = (chosen >> np.arange(groups)) % 2 == 1

        def objective(flat: np.ndarray, inside: np.ndarray = inside) -> float:
            full = np.zeros((groups, size))
            full[inside] = flat.reshape(-1, size)
            value = composite_penalty(norms_of(full), outer)
            return problem.loss(full)[0] + penalty * value

        for start in starts:
            found = scipy.optimize.minimize(objective, start[inside].ravel())
            if found.fun < best[0]:
                full = np.zeros((groups, size))
                full[inside] = found.x.reshape(-1, size)
                best = float(found.fun), full
    return best
