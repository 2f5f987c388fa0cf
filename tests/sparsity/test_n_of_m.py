"""N:M patterns: the mathematics against plain Python, then training to a pattern."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings

import tf_seqattn as sa
from tf_seqattn.sparsity.n_of_m import check_pattern, decaying_mask, keep_n_of_m

layers = keras.layers
HALF = sa.SequentialAttentionSchedule(0.5, end_step=30, cycles=2)


def kept_by_hand(scores, kept, group):
    """`keep_n_of_m` by sorting lists."""
    inputs, outputs = len(scores), len(scores[0])
    mask = [[0.0] * outputs for _ in range(inputs)]
    for column in range(outputs):
        for start in range(0, inputs, group):
            rows = range(start, min(start + group, inputs))
            for row in sorted(rows, key=lambda r: (-scores[r][column], r))[:kept]:
                mask[row][column] = 1.0
    return mask


@settings(max_examples=60)
@given(
    scores=st.integers(1, 13).flatmap(
        lambda rows: st.lists(
            st.lists(st.integers(-4, 4), min_size=3, max_size=3),
            min_size=rows,
            max_size=rows,
        )
    ),
    pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 5), (4, 8)]),
)
def test_the_best_of_every_group_stay(scores, pattern):
    found = keep_n_of_m(tf.constant(scores, tf.float32), *pattern)
    assert found.numpy().tolist() == kept_by_hand(scores, *pattern)


def test_scores_that_are_not_numbers_go_first():
    scores = tf.constant([[float("nan")], [-1e30], [float("inf")], [0.0]])
    kept = tf.reshape(keep_n_of_m(scores, 2, 4), [-1])
    assert kept.numpy().tolist() == [0, 1, 0, 1]


def test_the_rest_decays_from_one_to_zero():
    support = tf.constant([1.0, 0.0])
    left = [decaying_mask(support, s, 0.75).numpy() for s in (0.0, 0.375, 0.75)]
    assert [mask.tolist() for mask in left] == [[1, 1], [1, 0.5], [1, 0]]


def assert_two_of_four(matrix):
    groups = matrix[: len(matrix) // 4 * 4].reshape(-1, 4, matrix.shape[1])
    assert (np.count_nonzero(groups, axis=1) <= 2).all()
    # 30 rows leave a group of two, and both of these stay.
    assert np.mean(matrix == 0) == pytest.approx(0.5, abs=0.04)


def small_network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            layers.Conv2D(16, 3),
            layers.Flatten(),
            layers.Dense(30, name="dense"),
            layers.Dense(8, name="uneven"),
        ]
    )


@pytest.mark.parametrize(
    "importance", [sa.SoftmaxAttention(), sa.Magnitude(), sa.PowerPropagation()]
)
def test_trained_to_two_of_four(importance, tmp_path):
    pruned = sa.prune(small_network(), HALF, importance=importance, pattern="2:4")
    assert len(sa.pruned_layers(pruned)) == 3
    pruned.compile("adam", "mse")
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 6, 6, 8)).astype("float32")
    y = random.normal(size=(16, 8)).astype("float32")
    pruning = [sa.UpdatePruningStep()]
    seen = set()

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            mask = pruned.get_layer("prunable_dense").masks[0].numpy()
            seen.update(np.unique(mask).tolist())

    pruned.fit(x, y, batch_size=4, epochs=8, verbose=0, callbacks=[*pruning, Watch()])
    # The mask decays gradually, with many values between.
    assert {0.0, 1.0} < seen
    assert len(seen) > 5
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    np.testing.assert_allclose(loaded(x), pruned(x), atol=1e-6)
    sparse = sa.strip_pruning(pruned)
    np.testing.assert_allclose(sparse(x), pruned(x), atol=1e-5)
    for layer in sparse.layers:
        if layer.weights:
            kernel = layer.kernel.numpy()
            assert_two_of_four(kernel.reshape(-1, kernel.shape[-1]))
    # Single entries make no blocks to pack.
    packed = sa.pack(sparse)
    np.testing.assert_allclose(packed(x), sparse(x), atol=1e-5)


def test_a_trained_model_at_once():
    at_once = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(
        small_network(), at_once, importance=sa.Magnitude(), pattern="2:4"
    )
    dense = sa.strip_pruning(pruned).get_layer("dense").kernel.numpy()
    assert_two_of_four(dense)
    rows = sa.summary(pruned, print_fn=lambda line: None)
    assert [row["block_sparsity"] for row in rows] == pytest.approx([0.5] * 3, abs=0.04)


def test_errors_say_what_to_use():
    def prune(schedule=HALF, **arguments):
        return sa.prune(small_network(), schedule, **arguments)

    for pattern in ("4:2", "0:4", "2", 24, "a:b"):
        with pytest.raises(ValueError, match="`pattern` must be"):
            check_pattern(pattern)
    with pytest.raises(ValueError, match=r"use target_sparsity=0.75"):
        prune(pattern="1:4")
    with pytest.raises(ValueError, match=r"leave out `block_size`.*\(4, 4\)"):
        prune(pattern="2:4", block_size=(4, 4))
    with pytest.raises(ValueError, match="balanced=True"):
        prune(pattern="2:4", balanced=True)


def test_a_pattern_serves_depthwise_kernels_in_a_model(keras):
    model = keras.Sequential(
        [
            keras.Input((7, 7, 8)),
            keras.layers.DepthwiseConv2D(4),
            keras.layers.Dense(8, use_bias=False),
        ]
    )
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(model, schedule, pattern="2:4", pruning_policy=sa.PruningPolicy())
    depthwise = sa.strip_pruning(pruned).layers[-2].get_weights()[0]
    groups = depthwise.reshape(4, 4, 8)
    np.testing.assert_array_equal(np.count_nonzero(groups, axis=1), 2)
