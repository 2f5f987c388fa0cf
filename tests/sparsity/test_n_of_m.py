"""N:M patterns: the mathematics against plain Python, then training to a pattern."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings

import tf_seqattn as sa
from tf_seqattn import tfmot_api
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
    left = [decaying_mask(support, s).numpy() for s in (1.0, 0.5, 0.0)]
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


def test_structures_tighten_in_frames():
    pattern = sa.NofM("1:8", decay="stepwise")
    progress, kept = (0.0, 0.1, 0.3, 0.6, 0.9, 1.0), (8, 7, 4, 2, 1, 1)
    scores = tf.constant([[3.0], [1], [2], [8], [5], [6], [7], [4]])
    masks = [pattern.mask(scores, p * pattern.sparsity).numpy() for p in progress]
    assert [int(mask.sum()) for mask in masks] == list(kept)
    assert all(set(np.unique(mask)) <= {0.0, 1.0} for mask in masks)
    # What stays at last was never cut off.
    assert all(mask[3] == 1 for mask in masks)


def test_the_groups_of_a_geometric_decay_shrink():
    pattern = sa.NofM("1:2", decay="geometric")
    # The best half of all stands in the first eight rows.
    scores = tf.range(16.0, 0.0, -1.0)[:, None]
    early, late = (pattern.mask(scores, p).numpy()[:, 0] for p in (0.1, 0.5))
    assert early.tolist() == [1] * 8 + [0] * 8
    assert late.tolist() == [1, 0] * 8


def test_an_exponential_decay_falls_fast_first():
    pattern = sa.NofM("1:2", decay="exponential")
    scores = tf.constant([[2.0], [1.0]])
    left = [float(pattern.mask(scores, s)[1, 0]) for s in (0.0, 0.125, 0.25, 0.5)]
    assert left == pytest.approx([1.0, (0.01**0.25 - 0.01) / 0.99, 0.09 / 0.99, 0.0])


def test_no_group_has_inputs_of_two_places():
    """Six channels: four and two at each place, not across places."""
    layer = keras.layers.Conv2D(5, 3)
    layer.build((None, 8, 8, 6))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 6, 5)).astype("float32")
    layer.kernel.assign(kernel)
    at_once = sa.OneShotSchedule(0.75, prune_step=0)
    pruned = sa.prune(layer, at_once, importance=sa.Magnitude(), pattern="1:4")
    mask = pruned.masks[0].numpy().reshape(9, 6, 5)
    assert (mask[:, :4].sum(axis=1) == 1).all()
    assert (mask[:, 4:].sum(axis=1) == 1).all()
    size = np.abs(kernel).reshape(9, 6, 5)
    assert (mask[:, :4].argmax(axis=1) == size[:, :4].argmax(axis=1)).all()


def gradients_at(pattern, keras, weight=2.0):
    """The gradient of a sum of outputs in a kernel with a mask of 1 and 0.5 and 0.5."""
    dense = keras.layers.Dense(1, use_bias=False)
    dense.build((None, 4))
    kernel = np.array([[4.0], [weight], [1.0], [0.5]], "float32")
    dense.kernel.assign(kernel)
    schedule = sa.GradualSchedule(0.75, end_step=10, power=1)
    layer = sa.PrunableLayer(
        dense, schedule, importance=sa.Magnitude(), pattern=pattern
    )
    layer.steps_are_counted = True
    layer.update_masks(tf.constant(0.375))
    variable = dense.kernel if hasattr(dense.kernel, "handle") else dense.kernel.value
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(tf.ones((1, 4))))
    assert float(total) == pytest.approx(4 + 0.5 * (weight + 1.5))
    return tf.reshape(tape.gradient(total, variable), [-1]).numpy()


def test_gradients(keras):
    def at(gradient):
        return gradients_at(sa.NofM("1:4", gradient=gradient), keras)

    np.testing.assert_allclose(at("damped"), [1, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(at("straight"), [1, 1, 1, 1])
    pull = 2e-4 * 0.5 * np.array([0, 2.0, 1.0, 0.5])
    np.testing.assert_allclose(at("regularized"), 1 + pull, rtol=1e-6)


@pytest.mark.parametrize("every_step", [False, True])
def test_the_choice_is_made_anew_if_asked(every_step):
    """SR-STE: the pattern is there from the start, and follows the weights."""
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, use_bias=False)])
    pattern = sa.NofM("2:4", gradient="regularized", every_step=every_step)
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(
        model,
        schedule,
        importance=sa.Magnitude(),
        pruning_policy=sa.PruningPolicy(),
        pattern=pattern,
    )
    pruned.compile(keras.optimizers.SGD(0.0), "mse")
    layer = pruned.layers[0]
    before = layer.masks[0].numpy()
    x = np.ones((4, 8), "float32")
    pruned.fit(x, x, epochs=2, verbose=0, callbacks=[sa.UpdatePruningStep()])
    assert (layer.masks[0].numpy() == before).all()
    # What was small is now large.
    kernel = layer.layer.kernel
    kernel.assign(np.where(before == 0, 9.0, 0.1))
    pruned.fit(x, x, epochs=2, verbose=0, callbacks=[sa.UpdatePruningStep()])
    assert (layer.masks[0].numpy() == (1 - before if every_step else before)).all()


def test_a_saved_model_keeps_its_way(keras, tmp_path):
    pattern = sa.NofM("2:4", "stepwise", "straight", every_step=True)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)])
    pruned = sa.prune(model, HALF, pattern=pattern)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert sa.pruned_layers(loaded)[0].pattern == pattern


def test_errors_say_what_to_use():
    def prune(schedule=HALF, **arguments):
        return sa.prune(small_network(), schedule, **arguments)

    for pattern in ("4:2", "0:4", "2", 24, "a:b"):
        with pytest.raises(ValueError, match="`pattern` must be"):
            check_pattern(pattern)
    with pytest.raises(ValueError, match="`decay` must be one of linear, expo"):
        sa.NofM("2:4", decay="cosine")
    with pytest.raises(ValueError, match="`gradient` must be .* gradient='none'"):
        sa.NofM("2:4", gradient="none")
    tfmot = tfmot_api.schedule_class("ConstantSparsity")(0.5, 0)
    with pytest.raises(ValueError, match="`every_step` .* schedule of tf_seqattn"):
        prune(tfmot, pattern=sa.NofM("2:4", every_step=True))
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
