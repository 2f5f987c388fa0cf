"""The group LASSO against its optimality conditions and scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from tf_seqattn.theory.group_lasso import critical_penalty, group_lasso, violation
from tf_seqattn.theory.problems import random_problem


def test_groups_of_one_are_the_lasso_of_scikit_learn():
    problem = random_problem(np.random.default_rng(0), 50, 8, 1, 3)
    peer = Lasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000)
    wanted = peer.fit(problem.features[:, :, 0], problem.targets).coef_
    found = group_lasso(problem, 0.1)[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    assert 0 < np.count_nonzero(found) < 8


def test_the_violation_sees_a_wrong_point_of_every_kind():
    problem = random_problem(np.random.default_rng(1), 50, 6, 2, 2)
    free = np.arange(6) == 0
    found = group_lasso(problem, 0.2, free)
    zeros = np.flatnonzero(~found.any(axis=1))
    assert violation(problem, found, 0.2, free) < 1e-9
    assert 0 < len(zeros) < 5
    for group in range(6):
        moved = found.copy()
        moved[group] += 0.01
        assert violation(problem, moved, 0.2, free) > 1e-3
    dropped = np.where(
        (np.arange(6) == np.argmax(found.any(axis=1)))[:, None], 0, found
    )
    assert violation(problem, dropped, 0.2, free) > 1e-3


def test_above_the_critical_penalty_nothing_enters():
    problem = random_problem(np.random.default_rng(2), 50, 6, 2, 2)
    nothing, none = np.zeros((6, 2)), np.zeros(6, bool)
    critical = critical_penalty(problem, nothing, none)
    assert not group_lasso(problem, 1.001 * critical).any()
    below = group_lasso(problem, 0.999 * critical)
    norms = np.linalg.norm(problem.loss(nothing)[1], axis=1)
    assert np.flatnonzero(below.any(axis=1)).tolist() == [np.argmax(norms)]


def test_too_few_steps_are_an_error():
    problem = random_problem(np.random.default_rng(0), 50, 6, 2, 2)
    with pytest.raises(ValueError, match="`max_iter` = 1 steps"):
        group_lasso(problem, 0.01, max_iter=1)
