"""Masked problems, minimized as they stand, and the problems that they equal."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize

from tf_seqattn.theory import regularizers
from tf_seqattn.theory.group_lasso import norms_of
from tf_seqattn.theory.problems import LeastSquares

Function = Callable[[np.ndarray], np.ndarray]
_EXACT = {"maxiter": 5000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-10}


class Mask(NamedTuple):
    """A mask over groups, `value(w)`, with the cost of `w`, and what that amounts to.

    Attributes:
      value: the mask.
      slope: its derivative.
      cost: what is added to `|beta|^2` under the penalty.
      cost_slope: its derivative.
      regularizer: of the norms of the masked variables.
      least: lower bound of `w`, or None.
    """

    value: Function
    slope: Function
    cost: Function
    cost_slope: Function
    regularizer: Function
    least: float | None = None


MASKS = {
    "plain mask": Mask(
        lambda w: w,
        np.ones_like,
        np.square,
        lambda w: 2 * w,
        regularizers.of_plain_mask,
    ),
    "exponential mask (lemma 2.1)": Mask(
        np.exp,
        np.exp,
        np.square,
        lambda w: 2 * w,
        regularizers.of_exponential_mask,
    ),
    "L1 on the masks (lemma 2.2)": Mask(
        lambda w: w,
        np.ones_like,
        lambda w: w,
        np.ones_like,
        regularizers.of_sparse_mask,
        least=0.0,
    ),
}


def masked_minimum(
    problem: LeastSquares,
    mask: Mask,
    penalty: float,
    random: np.random.Generator,
    starts: int = 20,
) -> float:
    """The lowest `loss(mask(w) * beta) + penalty * (cost(w) + |beta|^2)` found.

    Args:
      problem: the loss.
      mask: of the groups.
      penalty: of both factors.
      random: for the starts.
      starts: how many. The problem is not convex.
    """
    groups, size = problem.shape

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, beta = flat[:groups], flat[groups:].reshape(groups, size)
        values = mask.value(w)[:, None]
        loss, gradient = problem.loss(values * beta)
        total = loss + penalty * (np.sum(mask.cost(w)) + np.sum(beta**2))
        by_w = np.sum(gradient * beta, axis=1) * mask.slope(w)
        by_w = by_w + penalty * mask.cost_slope(w)
        by_beta = gradient * values + 2 * penalty * beta
        return float(total), np.r_[by_w, by_beta.ravel()]

    bounds = [(mask.least, None)] * groups + [(None, None)] * (groups * size)
    best = np.inf
    for _ in range(starts):
        start = random.normal(size=groups * (size + 1))
        start[:groups] = np.abs(start[:groups])
        found = scipy.optimize.minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options=_EXACT,
        )
        best = min(best, found.fun)
    return best


def powerpropagation_minimum(
    problem: LeastSquares, penalty: float, random: np.random.Generator, starts: int = 20
) -> float:
    """The lowest `loss(beta |beta|) + penalty |beta|^2` found (lemma 2.3).

    Args:
      problem: the loss.
      penalty: of `beta`.
      random: for the starts.
      starts: how many.
    """

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        beta = flat.reshape(problem.shape)
        norms = norms_of(beta)[:, None]
        loss, gradient = problem.loss(beta * norms)
        along = np.sum(gradient * beta, axis=1, keepdims=True)
        by_beta = gradient * norms + along * beta / np.maximum(norms, 1e-300)
        by_beta = by_beta + 2 * penalty * beta
        return loss + penalty * float(np.sum(beta**2)), by_beta.ravel()

    size = int(np.prod(problem.shape))
    return min(
        scipy.optimize.minimize(
            objective,
            random.normal(size=size),
            jac=True,
            method="L-BFGS-B",
            options=_EXACT,
        ).fun
        for _ in range(starts)
    )


def regularized_minimum(
    problem: LeastSquares,
    regularizer: Function,
    penalty: float,
    random: np.random.Generator,
    starts: int = 4,
) -> float:
    """The lowest `loss(u) + penalty * sum regularizer(|u|)` found, for few groups.

    Every set of groups is minimized on by itself, with the others at 0, since the
    regularizer may have a kink there.

    Args:
      problem: the loss.
      regularizer: of norms `(groups,)`.
      penalty: of it.
      random: for the starts.
      starts: of each set.
    """
    groups, size = problem.shape
    best = problem.loss(np.zeros(problem.shape))[0]
    sets = itertools.product((False, True), repeat=groups)
    for inside in map(np.array, sets):
        for number in range(starts if inside.any() else 0):
            drawn = random.normal(size=problem.shape)
            start = problem.fit(inside) if number == 0 else drawn
            best = min(best, _minimum_on(problem, inside, regularizer, penalty, start))
    return best


def _minimum_on(
    problem: LeastSquares,
    inside: np.ndarray,
    regularizer: Function,
    penalty: float,
    start: np.ndarray,
) -> float:
    """The minimum with the groups outside at 0, from one start."""

    def objective(flat: np.ndarray) -> float:
        full = np.zeros(problem.shape)
        full[inside] = flat.reshape(-1, problem.shape[1])
        total = np.sum(regularizer(norms_of(full[inside])))
        return problem.loss(full)[0] + penalty * float(total)

    return float(scipy.optimize.minimize(objective, start[inside].ravel()).fun)
