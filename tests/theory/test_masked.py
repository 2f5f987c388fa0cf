"""Lemmas 2.1 to 2.3: a masked problem and the regularized one have one minimum."""

import numpy as np
import pytest
import scipy.optimize

from tf_seqattn.theory import regularizers
from tf_seqattn.theory.group_lasso import group_lasso, norms_of
from tf_seqattn.theory.masked import (
    MASKS,
    masked_minimum,
    powerpropagation_minimum,
    regularized_minimum,
)
from tf_seqattn.theory.problems import random_problem


def a_problem(seed=0):
    random = np.random.default_rng(seed)
    return random_problem(random, 30, groups=2, size=2, nonzero=2), random


@pytest.mark.parametrize("name", MASKS)
def test_no_pair_of_factors_is_cheaper(name):
    """The regularizer is the least cost of a product, over all its factors."""
    mask = MASKS[name]
    # Of a positive mask its logarithm is searched.
    argument = (lambda w: w) if name.startswith("exp") else np.exp
    for norm in (1e-3, 0.1, 1.0, 30.0):
        found = scipy.optimize.minimize_scalar(
            lambda x, n=norm: float(
                mask.cost(argument(x)) + (n / mask.value(argument(x))) ** 2
            ),
            bounds=(-12.0, 12.0),
            options={"xatol": 1e-12},
        )
        wanted = float(mask.regularizer(np.array(norm)))
        assert found.fun == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("penalty", [0.05, 0.15])
@pytest.mark.parametrize("name", MASKS)
def test_one_minimum(name, penalty):
    problem, random = a_problem()
    mask = MASKS[name]
    masked = masked_minimum(problem, mask, penalty, random)
    regularized = regularized_minimum(problem, mask.regularizer, penalty, random)
    nothing = problem.loss(np.zeros(problem.shape))[0]
    assert masked == pytest.approx(regularized, abs=1e-6)
    assert masked < nothing - 1e-3


@pytest.mark.parametrize("penalty", [0.05, 0.3])
def test_two_of_them_are_the_group_lasso(penalty):
    """Whose minimizer has a certificate of its own."""
    problem, random = a_problem(1)
    for factor, minimum in (
        (2.0, masked_minimum(problem, MASKS["plain mask"], penalty, random)),
        (1.0, powerpropagation_minimum(problem, penalty, random)),
    ):
        found = group_lasso(problem, factor * penalty)
        norms = factor * penalty * norms_of(found).sum()
        assert minimum == pytest.approx(problem.loss(found)[0] + norms, abs=1e-6)


def test_that_of_the_exponential_mask_is_no_subadditive_function():
    """So theorem 1.1 does not cover small norms; it is the log-sum for large ones."""
    q = regularizers.of_exponential_mask
    assert q(np.array(0.2)) > 1.9 * 2 * q(np.array(0.1))
    assert q(np.array(20.0)) < 0.8 * 2 * q(np.array(10.0))
