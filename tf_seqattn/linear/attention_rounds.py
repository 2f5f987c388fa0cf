"""Sequential attention on a linear model: one training, one choice, and again.

"Sequential Attention for Feature Selection" (arXiv 2209.14881, algorithm 1) trains, in
each round, the coefficients together with a softmax over the groups that are not yet
selected, and selects the group of largest logit. Here both factors have an L2 penalty,
as its theory has, so that a round has a definite answer. Groups that are selected are
multiplied by 1 and have no penalty but a small ridge.

At the minimum, `logit_j = |coefficients_j|^2 - attention_j * mean |coefficients|^2`.
So the logits rank the groups as the norms of what is masked do. With a large penalty
these are the norms of the gradient, and the choice is that of orthogonal matching
pursuit.
"""

import numpy as np
import scipy.optimize
import scipy.special

from tf_seqattn.linear.losses import Loss

# Tight, since logits are compared that are small where the penalty is large.
_TOLERANCES = {"ftol": 1e-10, "gtol": 1e-6}


def attention(logits: np.ndarray) -> np.ndarray:
    """Softmax `(candidates,)`, scaled to mean 1.

    Example:

    >>> attention(np.zeros(2)).tolist()
    [1.0, 1.0]
    """
    return scipy.special.softmax(logits) * len(logits)


def masked_objective(
    loss: Loss,
    groups: np.ndarray,
    candidates: np.ndarray,
    penalty: float,
    ridge: float,
    outputs: int,
) -> Loss:
    """The objective of one round, of coefficients and logits in one flat array.

    It is `loss(a * v) + ridge / 2 |a v|^2 + penalty / 2 (|v outside|^2 + |logits|^2)`
    with `a` the attention of a candidate's group and 1 for selected features.

    Args:
      loss: of coefficients `(features, outputs)`.
      groups: int `(features,)`: the group of each feature, -1 for one that is never
        penalized, such as a column of ones.
      candidates: int `(candidates,)`: the groups not selected yet.
      penalty: of the coefficients of candidates and of their logits.
      ridge: of all coefficients but those of group -1.
      outputs: of the model.

    Returns:
      A function of `features * outputs + candidates` floats, with its gradient.
    """
    features = len(groups)
    place = np.full(groups.max() + 1, -1)
    place[candidates] = np.arange(len(candidates))
    # The place of each feature's group among the candidates; -1 is not one of them.
    place = np.where(groups >= 0, place[groups], -1)
    outside, with_ridge = place >= 0, (groups >= 0)[:, None]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        free = flat[: features * outputs].reshape(features, outputs)
        logits = flat[features * outputs :]
        shares = attention(logits)
        mask = np.where(outside, shares[place], 1.0)[:, None]
        masked = free * mask
        value, gradient = loss(masked)
        gradient = gradient + ridge * with_ridge * masked
        # Of the loss in log(attention), summed over each group.
        by_group = np.bincount(
            place[outside],
            weights=np.sum(gradient * masked, axis=1)[outside],
            minlength=len(logits),
        )
        shrunk = penalty * free * outside[:, None]
        value += ridge / 2 * np.sum(with_ridge * masked**2)
        value += np.sum(shrunk * free) / 2 + penalty / 2 * np.sum(logits**2)
        by_logit = by_group - shares * by_group.mean() + penalty * logits
        return float(value), np.r_[(gradient * mask + shrunk).ravel(), by_logit]

    return objective


def minimize(
    objective: Loss, start: np.ndarray, max_iter: int
) -> scipy.optimize.OptimizeResult:
    """Minimizes by L-BFGS from a point, in so many iterations at most."""
    return scipy.optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, **_TOLERANCES},
    )


def select(
    loss: Loss,
    groups: np.ndarray,
    outputs: int,
    number: int,
    per_round: int,
    penalty: float,
    ridge: float,
    max_iter: int,
) -> tuple[np.ndarray, int]:
    """Selects groups round by round.

    Args:
      loss: of coefficients `(features, outputs)`.
      groups: int `(features,)`, numbered from 0; -1 is never penalized.
      outputs: of the model.
      number: how many groups to select.
      per_round: how many at a time.
      penalty: of the coefficients of candidates and of their logits.
      ridge: of all coefficients.
      max_iter: of the minimization of a round.

    Returns:
      Int `(number,)`: groups in the order of their selection, within a round by logit;
      and the largest number of iterations of a round.

    Example:

    >>> features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> from tf_seqattn.linear.losses import squared_loss
    >>> loss = squared_loss(features, features @ [[1.0], [2.0]])
    >>> select(loss, np.arange(2), 1, 1, 1, 1.0, 1e-4, 100)[0].tolist()
    [1]
    """
    coefficients = len(groups) * outputs
    selected = np.zeros(0, int)
    found, iterations = np.zeros(coefficients), 0
    while len(selected) < number:
        candidates = np.setdiff1d(np.arange(groups.max() + 1), selected)
        objective = masked_objective(loss, groups, candidates, penalty, ridge, outputs)
        # The coefficients go on, and attention begins equal.
        start = np.r_[found[:coefficients], np.zeros(len(candidates))]
        result = minimize(objective, start, max_iter)
        found, iterations = result.x, max(iterations, result.nit)
        now = min(per_round, number - len(selected))
        best = np.argsort(-found[coefficients:], kind="stable")[:now]
        selected = np.r_[selected, candidates[best]]
    return selected, iterations
