"""Least squares with groups of features, random or given."""

from typing import NamedTuple

import numpy as np


class LeastSquares(NamedTuple):
    """The loss `|features . coefficients - targets|^2 / (2 rows)`.

    Attributes:
      features: `(rows, groups, size)`.
      targets: `(rows,)`.
    """

    features: np.ndarray
    targets: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """`(groups, size)` of the coefficients."""
        return self.features.shape[1:]

    def loss(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient at coefficients `(groups, size)`."""
        rows = len(self.targets)
        residual = np.tensordot(self.features, coefficients, 2) - self.targets
        gradient = np.tensordot(residual, self.features, (0, 0)) / rows
        return float(residual @ residual) / rows / 2, gradient

    def fit(self, support: np.ndarray) -> np.ndarray:
        """Returns the minimizer `(groups, size)` that is 0 outside a support.

        Args:
          support: int or bool, groups.
        """
        found = np.zeros(self.shape)
        inside = self.features[:, support].reshape(len(self.targets), -1)
        if inside.size:
            solved = np.linalg.lstsq(inside, self.targets, rcond=None)[0]
            found[support] = solved.reshape(-1, self.shape[1])
        return found


def random_problem(
    random: np.random.Generator,
    rows: int,
    groups: int,
    size: int,
    nonzero: int,
    correlation: float = 0.0,
    noise: float = 0.1,
) -> LeastSquares:
    """A problem that a few groups explain.

    Args:
      random: source of all draws.
      rows: of the data.
      groups: of features.
      size: features of a group.
      nonzero: groups that the targets are made of.
      correlation: of any two features, in [0, 1).
      noise: standard deviation of what is added to the targets.
    """
    own = random.normal(size=(rows, groups, size))
    shared = random.normal(size=(rows, 1, 1))
    features = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * shared
    truth = np.zeros((groups, size))
    chosen = random.choice(groups, nonzero, replace=False)
    truth[chosen] = random.normal(size=(nonzero, size))
    targets = np.tensordot(features, truth, 2) + noise * random.normal(size=rows)
    return LeastSquares(features, targets)
