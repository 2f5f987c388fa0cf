"""Choosing the support, on cases worked by hand and against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_seqattn.sparsity.support import keep_count, support_churn, update_mask


def update(mask, scores, sparsity):
    mask = tf.constant([mask], tf.float32)
    return update_mask(mask, tf.constant([scores], tf.float32), sparsity).numpy()[0]


@pytest.mark.parametrize(
    ("blocks", "sparsity", "kept"),
    [(400, 0.9, 40), (10, 0.0, 10), (10, 0.99, 1), (7, 0.5, 4), (1, 0.9, 1)],
)
def test_keep_count(blocks, sparsity, kept):
    assert int(keep_count(blocks, sparsity)) == kept


def test_least_important_active_block_goes():
    # Block 2 is the most important one but is no longer active.
    assert update([1, 1, 0, 1], [3, 1, 9, 2], 0.5).tolist() == [1, 0, 0, 1]


def test_sparsity_zero_revives_everything():
    assert update([0, 0, 1, 0], [3, 1, 9, 2], 0.0).tolist() == [1, 1, 1, 1]


def test_all_compete_when_more_are_wanted_than_are_active():
    assert update([0, 1, 0, 0], [3, 1, 9, 2], 0.5).tolist() == [1, 0, 1, 0]


def test_a_repeated_update_changes_nothing():
    once = update([1, 1, 1, 1], [3, 1, 9, 2], 0.5)
    assert update(once, [3, 1, 9, 2], 0.5).tolist() == once.tolist() == [1, 0, 1, 0]


def test_ties_break_by_position():
    assert update([1, 1, 1, 1], [5, 5, 5, 5], 0.5).tolist() == [1, 1, 0, 0]


def test_a_layer_is_never_wiped_out():
    assert update([1, 1, 1, 1], [1, 2, 3, 4], 0.999).tolist() == [0, 0, 0, 1]


def test_a_score_that_is_not_a_number_ranks_last():
    scores = [np.nan, -1e30, np.inf, 1]
    assert update([1, 1, 1, 1], scores, 0.5).tolist() == [0, 1, 0, 1]


@settings(max_examples=40)
@given(
    st.integers(1, 20), st.floats(0, 0.999), st.integers(0, 2**20), st.integers(0, 9)
)
def test_against_numpy(count, sparsity, seed, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, count).astype("float32")
    mask = (rng.random(count) > 0.4).astype("float32")
    keep = max(1, int(np.rint(np.float64(count) * (1 - np.float64(sparsity)))))
    pool = np.flatnonzero(mask) if keep <= mask.sum() else np.arange(count)
    order = sorted(pool, key=lambda b: (-scores[b], b))
    expected = np.isin(np.arange(count), order[:keep])
    np.testing.assert_array_equal(update(mask, scores, sparsity) > 0, expected)


def test_churn():
    assert support_churn([1, 1, 0, 0], [1, 1, 0, 0]) == 0.0
    assert support_churn([1, 1, 0, 0], [0, 0, 1, 1]) == 1.0


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.lists(st.floats(0, 0.95), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_balanced_columns_keep_the_best_of_their_own(shape, sparsities, seed):
    rng = np.random.default_rng(seed)
    mask = np.ones(shape, "float32")
    for sparsity in sorted(sparsities):
        scores = rng.normal(size=shape).astype("float32")
        new = update_mask(tf.constant(mask), scores, sparsity, balanced=True).numpy()
        kept = int(keep_count(shape[0], sparsity))
        assert (new.sum(axis=0) == kept).all()
        for column in range(shape[1]):
            active = np.flatnonzero(mask[:, column])
            best = active[np.argsort(-scores[active, column], kind="stable")][:kept]
            assert np.flatnonzero(new[:, column]).tolist() == sorted(best.tolist())
        mask = new
