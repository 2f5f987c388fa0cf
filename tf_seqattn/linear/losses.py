"""Losses of linear models as functions of the coefficients, with gradients.

A loss takes coefficients `(features, outputs)` and returns its value, a mean over the
rows, and its gradient of the same shape. Intercepts are in no loss: features and
targets of the squared one are centred, and the logistic one has a column of ones.
"""

from collections.abc import Callable

import numpy as np
import scipy.special

Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]


def squared_loss(features: np.ndarray, targets: np.ndarray) -> Loss:
    """Half the mean square of `features @ coefficients - targets`.

    Args:
      features: float `(rows, features)`.
      targets: float `(rows, outputs)`.

    Example:

    >>> loss = squared_loss(np.array([[1.0], [1.0]]), np.array([[2.0], [0.0]]))
    >>> value, gradient = loss(np.zeros((1, 1)))
    >>> value, gradient.tolist()
    (1.0, [[-1.0]])
    """
    rows, number = features.shape
    if number > rows:
        return _squared_by_rows(features, targets)
    gram, moments = features.T @ features / rows, features.T @ targets / rows
    constant = float(np.sum(targets**2)) / rows / 2

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        product = gram @ coefficients
        value = np.sum(coefficients * (product / 2 - moments)) + constant
        return float(value), product - moments

    return loss


def _squared_by_rows(features: np.ndarray, targets: np.ndarray) -> Loss:
    """The same, cheaper if there are more features than rows."""
    rows = len(features)

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        residual = features @ coefficients - targets
        value = float(np.sum(residual**2)) / rows / 2
        return value, features.T @ residual / rows

    return loss


def logistic_loss(features: np.ndarray, classes: np.ndarray) -> Loss:
    """Mean cross-entropy of a softmax over `features @ coefficients`.

    Args:
      features: float `(rows, features)`.
      classes: float `(rows, outputs)`: one-hot.

    Example:

    >>> loss = logistic_loss(np.ones((1, 1)), np.array([[1.0, 0.0]]))
    >>> value, gradient = loss(np.zeros((1, 2)))
    >>> round(value, 3), gradient.tolist()
    (0.693, [[-0.5, 0.5]])
    """
    rows = len(features)

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        logits = features @ coefficients
        log_shares = scipy.special.log_softmax(logits, axis=1)
        value = -float(np.sum(classes * log_shares)) / rows
        return value, features.T @ (np.exp(log_shares) - classes) / rows

    return loss
