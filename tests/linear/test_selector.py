"""The selector: scikit-learn's own checks, known solutions, groups, bad input."""

import numpy as np
import pytest
import scipy.optimize
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import OrthogonalMatchingPursuit
from sklearn.utils.estimator_checks import check_estimator

import tf_seqattn as sa
from tf_seqattn.linear.attention_rounds import masked_objective, minimize
from tf_seqattn.linear.losses import logistic_loss, squared_loss

Selector = sa.linear.SequentialAttentionSelector


@pytest.mark.parametrize("selector", [Selector(), Selector(loss="log", n_per_round=2)])
def test_scikit_learn_accepts_it(selector):
    # What it skips needs other packages.
    results = check_estimator(selector, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 40


def sparse_regression(seed, features=20, rows=200, noise=0.1):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, features))
    support = random.choice(features, 4, replace=False)
    y = x[:, support] @ np.array([1.0, -2.0, 3.0, -4.0]) + noise * random.normal(
        size=rows
    )
    return x, y, support


def test_it_finds_the_features_that_made_the_target():
    x, y, support = sparse_regression(0)
    # Units must not matter.
    x = x * np.geomspace(1e-3, 1e3, x.shape[1]) + 5.0
    found = Selector(4).fit(x, y * 1e4)
    assert set(np.flatnonzero(found.support_)) == set(support)
    # The largest coefficient first.
    assert found.rounds_[support].tolist() == [4, 3, 2, 1]


# Seeds without near ties between gradients.
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_with_a_large_penalty_it_is_orthogonal_matching_pursuit(seed):
    x, y, _ = sparse_regression(seed, noise=5.0, rows=60)
    x[:, 1:] += 0.8 * x[:, :-1]
    peer = OrthogonalMatchingPursuit(n_nonzero_coefs=7)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    wanted = np.flatnonzero(peer.fit(scaled, y).coef_)
    found = Selector(7, penalty=30.0, alpha=0.0).fit(x, y)
    assert np.flatnonzero(found.support_).tolist() == wanted.tolist()


def test_more_features_than_rows_are_computed_by_rows():
    x, y, support = sparse_regression(0, features=300, rows=100)
    assert set(np.flatnonzero(Selector(4).fit(x, y).support_)) == set(support)


def test_the_gram_matrix_and_the_rows_give_one_loss():
    random = np.random.default_rng(0)
    x, y, w = (random.normal(size=s) for s in ((9, 4), (9, 2), (4, 2)))
    value, gradient = squared_loss(x, y)(w)
    wide = np.hstack([x, np.zeros((9, 6))])
    by_rows, by_rows_gradient = squared_loss(wide, y)(np.vstack([w, np.ones((6, 2))]))
    assert by_rows == pytest.approx(value)
    np.testing.assert_allclose(by_rows_gradient[:4], gradient, atol=1e-12)


@pytest.mark.parametrize("with_ones", [False, True])
def test_the_gradient_of_a_round(with_ones):
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 6))
    y = np.eye(3)[random.integers(0, 3, 30)]
    groups = np.array([0, 0, 1, 2, 2, -1 if with_ones else 3])
    candidates = np.array([0, 2])
    objective = masked_objective(logistic_loss(x, y), groups, candidates, 0.3, 0.1, 3)
    point = random.normal(size=6 * 3 + 2)
    error = scipy.optimize.check_grad(
        lambda v: objective(v)[0], lambda v: objective(v)[1], point
    )
    assert error < 1e-5


def test_at_the_minimum_logits_rank_as_the_norms_do():
    """The relation that the docstring of the rounds states."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 8)), random.normal(size=(40, 1))
    y = y + 2 * x[:, :1] - x[:, 3:4]
    groups = np.arange(8) // 2
    objective = masked_objective(squared_loss(x, y), groups, np.arange(4), 0.5, 0, 1)
    found = minimize(objective, np.zeros(12), 2000).x
    squares = np.bincount(groups, found[:8] ** 2)
    shares = np.exp(found[8:]) / np.mean(np.exp(found[8:]))
    assert np.ptp(found[8:]) > 0.1
    np.testing.assert_allclose(found[8:], squares - shares * squares.mean(), atol=1e-4)


def test_groups_stay_together():
    x, _, _ = sparse_regression(0, features=12)
    y = x[:, 2] - 2 * x[:, 9] + 0.5 * x[:, 10]
    labels = np.repeat(list("abcd"), 3)
    found = Selector(2, groups=labels).fit(x, y)
    assert found.support_.tolist() == [True] * 3 + [False] * 6 + [True] * 3
    assert found.rounds_.tolist() == [2] * 3 + [0] * 6 + [1] * 3


def test_several_in_a_round():
    x, y, support = sparse_regression(1)
    found = Selector(4, n_per_round=3).fit(x, y)
    assert set(np.flatnonzero(found.support_)) == set(support)
    assert np.sort(found.rounds_[support]).tolist() == [1, 1, 1, 2]
    # Copies of one feature enter together only if they enter in one round.
    twice, y = x[:, [0, 1, 0, 2]], 10 * x[:, 0] + x[:, 1]
    together, apart = (Selector(2, n_per_round=n).fit(twice, y) for n in (2, 1))
    assert together.support_.tolist() == [True, False, True, False]
    assert apart.support_[1]


def test_classes_and_names():
    data = load_wine(as_frame=True)
    found = Selector(0.3, loss="log").fit(data.data, data.target_names[data.target])
    names = found.get_feature_names_out()
    assert len(names) == 4
    # What a decision between these three wines is known to need.
    assert {"flavanoids", "proline", "color_intensity"} & set(names)
    assert found.transform(data.data).shape == (178, 4)


def test_a_constant_or_a_copy_is_not_taken_twice():
    x, y = load_breast_cancer(return_X_y=True)
    x = np.hstack([x[:, :8], np.full((len(x), 1), 1e9), x[:, :8]])
    found = Selector(6, loss="log").fit(x, y)
    assert not found.support_[8]
    both = found.support_[:8] & found.support_[9:]
    assert not both.any()


def test_many_targets():
    x, _, _ = sparse_regression(0)
    y = np.stack([x[:, 3], 2 * x[:, 7], np.zeros(len(x))], axis=1)
    assert np.flatnonzero(Selector(2).fit(x, y).support_).tolist() == [3, 7]


def test_errors_say_what_to_use():
    x, y, _ = sparse_regression(0)
    for arguments, message in (
        ({"n_features_to_select": 0}, "between 1 and the number of .*, 20"),
        ({"n_features_to_select": 21}, "Received: 21"),
        ({"n_features_to_select": 1.5}, r"share of them in \(0, 1\)"),
        ({"n_features_to_select": "all"}, "Received: 'all'"),
        ({"groups": [0, 1]}, r"20 labels.*\(2,\)"),
        ({"loss": "hinge"}, "one of squared, log"),
        ({"n_per_round": 0}, "`n_per_round` must be 1 or more"),
        ({"penalty": 0.0}, "`penalty` must be above 0"),
        ({"alpha": -1.0}, "`alpha` must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            Selector(**arguments).fit(x, y)


def test_too_few_iterations_are_told():
    x, y, _ = sparse_regression(0)
    with pytest.warns(ConvergenceWarning, match="Raise `max_iter`, which is 2"):
        found = Selector(4, max_iter=2).fit(x, y)
    assert found.n_iter_ == 2
    assert 2 < Selector(4).fit(x, y).n_iter_ < 200


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="two classes or more"):
        Selector(loss="log").fit(np.eye(3), np.ones(3))
