"""Algorithm 2: what enters, what goes, and the bound of theorem B.3."""

import itertools

import numpy as np
import pytest

from tf_seqattn.theory.group_lasso import norms_of
from tf_seqattn.theory.problems import random_problem
from tf_seqattn.theory.replacement import (
    curvatures,
    entering_group,
    needed_rounds,
    needed_support,
    replace_rounds,
)


def least_of(problem, groups, wanted):
    """The lowest loss of so many groups, by trying all."""
    sets = itertools.combinations(range(groups), wanted)
    return min(problem.loss(problem.fit(np.array(s)))[0] for s in sets)


def test_the_group_of_largest_gradient_enters():
    problem = random_problem(np.random.default_rng(0), 100, 6, 2, 3, correlation=0.5)
    support = np.array([True, False, True, False, False, False])
    gradient = norms_of(problem.loss(problem.fit(support))[1])
    wanted = int(np.argmax(np.where(support, 0.0, gradient)))
    assert entering_group(problem, support) == wanted
    assert entering_group(problem, np.ones(6, bool)) is None


@pytest.mark.parametrize("seed", range(2))
def test_the_bound(seed):
    random = np.random.default_rng(seed)
    problem = random_problem(random, 2000, 12, 1, 1, noise=1.0)
    least, largest = curvatures(problem)
    size = needed_support(1, largest / least)
    assert size < 6
    best = least_of(problem, 12, 1)
    support = np.isin(
        np.arange(12), np.argsort(problem.fit(np.arange(12))[:, 0] ** 2)[:size]
    )
    gap = problem.loss(problem.fit(support))[0] - best
    assert gap > 0.01
    rounds = needed_rounds(1, largest / least, gap, 0.01 * gap)
    losses = replace_rounds(problem, support, rounds)
    assert len(losses) == rounds + 1
    assert min(losses) <= best + 0.01 * gap


def test_a_support_of_the_wanted_size_reaches_an_easy_best():
    problem = random_problem(np.random.default_rng(3), 200, 8, 2, 2)
    start = np.arange(8) < 2
    losses = replace_rounds(problem, start, 6)
    assert min(losses) == pytest.approx(least_of(problem, 8, 2))
    assert losses[0] > 2 * min(losses)
