"""Sequential attention as a feature selector of scikit-learn."""

import numbers
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from tf_seqattn.linear.attention_rounds import select
from tf_seqattn.linear.losses import Loss, logistic_loss, squared_loss

LOSSES = ("squared", "log")


class SequentialAttentionSelector(SelectorMixin, BaseEstimator):
    """Selects features, or groups of them, of a linear or logistic model.

    Each round trains the model with a softmax over the features that are not selected
    yet, and selects those of largest logit (arXiv 2209.14881, algorithm 1). Features
    are scaled to mean 0 and variance 1 first, and so is the target of the squared loss.
    The result depends on nothing random.

    Args:
      n_features_to_select: how many features stay (an int), or which share of them (a
        float in (0, 1)); half of them by default. With `groups`, how many groups.
      groups: a label for each feature, such as `[0, 0, 1]`; features of one label stay
        or go together. By default each feature is a group.
      n_per_round: how many are selected in each round. More are faster; features that
        tell the same may then be selected together.
      loss: "squared" for regression, of one target or many, or "log" for classes.
      penalty: L2 penalty of the coefficients not selected yet, and of their logits. A
        large one selects as orthogonal matching pursuit does, by the gradient alone;
        a small one by the coefficients of the model on all features.
      alpha: L2 penalty of all coefficients, small, so that classes that can be
        separated have a minimum.
      max_iter: iterations of L-BFGS in each round, at most.

    Attributes:
      support_: bool `(n_features,)`, what stays.
      rounds_: int `(n_features,)`, the round in which each was selected, from 1; 0 for
        those that go.
      n_iter_: iterations of the round that took most.
      n_features_in_: number of features in `fit`.

    Example:

    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(100, 5))
    >>> y = 3 * x[:, 1] - x[:, 4]
    >>> selector = sa.linear.SequentialAttentionSelector(2).fit(x, y)
    >>> selector.support_.tolist(), selector.rounds_.tolist()
    ([False, True, False, False, True], [0, 1, 0, 0, 2])
    >>> selector.transform(x).shape
    (100, 2)
    """

    def __init__(
        self,
        n_features_to_select: int | float | None = None,
        *,
        groups: npt.ArrayLike | None = None,
        n_per_round: int = 1,
        loss: str = "squared",
        penalty: float = 1.0,
        alpha: float = 1e-3,
        max_iter: int = 500,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.groups = groups
        self.n_per_round = n_per_round
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.max_iter = max_iter

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "SequentialAttentionSelector":
        """Selects the features.

        Args:
          X: floats `(n_samples, n_features)`.
          y: floats `(n_samples,)` or `(n_samples, n_outputs)`; for "log", a class of
            each sample.

        Returns:
          The selector.

        Raises:
          ValueError: for an argument out of its range, groups of another length, or a
            single class.
        """
        self._check_arguments()
        x, targets = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            multi_output=self.loss == "squared",
            y_numeric=self.loss == "squared",
            ensure_min_samples=2,
        )
        groups = self._group_numbers(x.shape[1])
        scale = x.std(axis=0)
        # A constant feature explains nothing, and rounding must not scale it up.
        constant = scale <= 1e-12 * np.abs(x).max(axis=0)
        x = (x - x.mean(axis=0)) / np.where(constant, 1.0, scale)
        loss, all_groups, outputs = self._make_loss(x, targets, groups)
        order, self.n_iter_ = select(
            loss,
            all_groups,
            outputs,
            self._number(groups.max() + 1),
            self.n_per_round,
            self.penalty,
            self.alpha,
            self.max_iter,
        )
        if self.n_iter_ >= self.max_iter:
            warnings.warn(
                "A round of sequential attention stopped before its minimum, so its "
                "choice may be another one. Raise `max_iter`, which is "
                f"{self.max_iter}.",
                ConvergenceWarning,
                stacklevel=2,
            )
        rounds = np.zeros(groups.max() + 1, int)
        rounds[order] = 1 + np.arange(len(order)) // self.n_per_round
        self.rounds_ = rounds[groups]
        self.support_ = self.rounds_ > 0
        return self

    def _make_loss(
        self, x: np.ndarray, y: np.ndarray, groups: np.ndarray
    ) -> tuple[Loss, np.ndarray, int]:
        """The loss, the groups of all its coefficients and the number of outputs."""
        if self.loss == "squared":
            targets = y.reshape(len(y), -1).astype(np.float64)
            targets = targets - targets.mean(axis=0)
            size = np.sqrt(np.mean(targets**2))
            return squared_loss(x, targets / (size or 1.0)), groups, targets.shape[1]
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                '`loss="log"` needs two classes or more in `y`. Received one class: '
                f"{classes[0]!r}"
            )
        with_ones = np.hstack([x, np.ones((len(x), 1))])
        one_hot = np.eye(len(classes))[labels]
        return logistic_loss(with_ones, one_hot), np.r_[groups, -1], len(classes)

    def _group_numbers(self, features: int) -> np.ndarray:
        if self.groups is None:
            return np.arange(features)
        labels = np.asarray(self.groups)
        if labels.shape != (features,):
            raise ValueError(
                "`groups` must have a label for each feature: "
                f"{features} labels. Received an array of shape {labels.shape}."
            )
        return np.unique(labels, return_inverse=True)[1]

    def _number(self, groups: int) -> int:
        """How many groups to select."""
        wanted = self.n_features_to_select
        if wanted is None:
            return max(1, groups // 2)
        if isinstance(wanted, numbers.Integral):
            if not 1 <= wanted <= groups:
                raise ValueError(
                    "`n_features_to_select` must be between 1 and the number of "
                    f"features or groups, {groups}. Received: {wanted}"
                )
            return int(wanted)
        return max(1, round(wanted * groups))

    def _check_arguments(self) -> None:
        wanted = self.n_features_to_select
        is_share = isinstance(wanted, numbers.Real) and 0 < wanted < 1
        if not (wanted is None or isinstance(wanted, numbers.Integral) or is_share):
            raise ValueError(
                "`n_features_to_select` must be a number of features, a share of them "
                f"in (0, 1), or None for half of them. Received: {wanted!r}"
            )
        if self.loss not in LOSSES:
            raise ValueError(
                f"`loss` must be one of {', '.join(LOSSES)}. Received: {self.loss!r}"
            )
        for name in ("n_per_round", "max_iter"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"`{name}` must be 1 or more. Received: {value!r}")
        for name, least in (("penalty", "above 0"), ("alpha", "0 or more")):
            value = getattr(self, name)
            if value < 0 or (name == "penalty" and value == 0):
                raise ValueError(f"`{name}` must be {least}. Received: {value!r}")

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Tags:
        tags: Any = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = self.loss == "squared"
        return tags
