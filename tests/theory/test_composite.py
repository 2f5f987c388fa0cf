"""Theorem 1.1 on random problems, and that each of its assumptions is needed."""

import numpy as np
import pytest

from tf_seqattn.theory.composite import OUTERS, composite_penalty, least_found
from tf_seqattn.theory.group_lasso import critical_penalty, group_lasso, norms_of
from tf_seqattn.theory.problems import LeastSquares, random_problem


def compare(problem, share, outer, random):
    """The group LASSO's solution, its objective, and the composite penalty's two."""
    none = np.zeros(problem.shape[0], bool)
    critical = critical_penalty(problem, np.zeros(problem.shape), none)
    penalty = share * critical
    lasso = group_lasso(problem, penalty)
    objective = problem.loss(lasso)[0] + penalty * norms_of(lasso).sum()
    starts = [random.normal(size=problem.shape)]
    found, least = least_found(problem, penalty, OUTERS[outer], starts)
    return lasso, objective, least, found


@pytest.mark.parametrize("outer", ["power 2/3", "log(1 + norm)"])
def test_it_holds(outer):
    random = np.random.default_rng(0)
    problem = random_problem(random, 30, 2, 2, 1)
    lasso, objective, least, found = compare(problem, 0.9, outer, random)
    assert np.count_nonzero(norms_of(lasso)) == 1
    assert found == pytest.approx(objective, abs=1e-8)
    np.testing.assert_allclose(least, lasso, atol=1e-4)


@pytest.mark.parametrize("outer", ["square", "exponential mask"])
def test_without_a_subadditive_function_it_breaks(outer):
    random = np.random.default_rng(0)
    problem = random_problem(random, 30, 2, 2, 2)
    _, objective, least, found = compare(problem, 0.9, outer, random)
    assert found < objective - 1e-3
    assert np.count_nonzero(norms_of(least)) == 2


def test_with_two_groups_in_the_solution_it_breaks():
    random = np.random.default_rng(0)
    problem = random_problem(random, 30, 2, 2, 2)
    lasso, _, least, _ = compare(problem, 0.1, "log(1 + norm)", random)
    assert np.count_nonzero(norms_of(lasso)) == 2
    assert np.abs(least - lasso).max() > 1e-2


def test_without_a_unique_solution_it_breaks():
    """Of two equal groups, the LASSO may mix; the composite penalty must choose."""
    random = np.random.default_rng(0)
    problem = random_problem(random, 30, 1, 2, 1)
    twice = LeastSquares(np.repeat(problem.features, 2, axis=1), problem.targets)
    penalty = 0.5 * critical_penalty(
        problem, np.zeros(problem.shape), np.zeros(1, bool)
    )
    single = group_lasso(problem, penalty)[0]
    halves, first = np.stack([single, single]) / 2, np.stack([single, 0 * single])
    assert norms_of(halves).sum() == pytest.approx(norms_of(first).sum())
    outer = OUTERS["power 2/3"]
    assert twice.loss(halves)[0] == pytest.approx(twice.loss(first)[0])
    mixed, chosen = (composite_penalty(norms_of(c), outer) for c in (halves, first))
    assert mixed == pytest.approx(np.sqrt(2) * chosen)


@pytest.mark.parametrize("outer", OUTERS)
def test_inverses(outer):
    values = np.array([0.0, 0.01, 0.5, 3.0])
    forward, inverse = OUTERS[outer]
    np.testing.assert_allclose(inverse(forward(values)), values, rtol=1e-9, atol=1e-12)
