"""Steps that skip pruned blocks train as steps with a mask do."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.keras_api import keras_of, stored
from tf_seqattn.kernels.blocks import BlockGrid, scale_blocks
from tf_seqattn.sparsity import pruned_layers
from tf_seqattn.training import skip_pruned_blocks
from tf_seqattn.training.kept_blocks import take_blocks

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("gain", [None, 3.0])
@pytest.mark.parametrize("height", [2, 4])
@pytest.mark.parametrize("shape", [(8, 6), (7, 5)])
def test_blocks_and_gradients_are_those_of_the_scaled_kernel(shape, height, gain):
    grid = BlockGrid(shape, (4, 3))
    kernel, values = RNG.normal(size=shape), RNG.normal(size=grid.shape)
    kernel, values = tf.constant(kernel), tf.constant(values)
    rows, columns = np.array([0, 4 // height]), np.array([1, 0])
    weights = RNG.normal(size=(2, height, 3))
    seen = []
    gain = None if gain is None else tf.constant(gain, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([kernel, values])
        taken = take_blocks(
            kernel, values, grid, rows, columns, height, seen.append, gain
        )
        scaled = scale_blocks(kernel, values, grid, gain=gain)
        scaled = tf.pad(scaled, [(0, 1), (0, 1)])
        expected = tf.stack(
            [
                scaled[r * height : (r + 1) * height, c * 3 : (c + 1) * 3]
                for r, c in zip(rows, columns, strict=True)
            ]
        )
        losses = [tf.reduce_sum(weights * tf.sin(v)) for v in (taken, expected)]
    np.testing.assert_allclose(taken, expected)
    found, wanted = (tape.gradient(loss, [kernel, values]) for loss in losses)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other)
        assert np.any(one)
    np.testing.assert_array_equal(seen[0], found[1])


def network(keras):
    """Dense layers, a convolution and attention, in blocks that cut their kernels."""
    inputs = keras.Input((6, 6, 8))
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Reshape((36, 16))(x)
    x = x + keras.layers.MultiHeadAttention(2, 8)(x, x)
    x = keras.layers.Dense(20, activation="tanh")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, kernel_regularizer="l2")(x))


def perceptron(keras):
    """Two dense layers."""
    inputs = keras.Input((6, 6, 8))
    x = keras.layers.Dense(20, activation="tanh")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def trained(model, callback, schedule, epochs=8):
    """All values of a model after training, its predictions and its history."""
    keras = keras_of(model)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(128, 6, 6, 8)).astype("float32")
    y = rng.normal(size=(128, 10)).astype("float32")
    policy = sa.MinimumBlocks((4, 4), min_blocks=1)
    model = sa.prune(model, schedule, block_size=(4, 4), pruning_policy=policy)
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        validation_data=(x[:32], y[:32]),
        callbacks=[callback],
    )
    for layer in pruned_layers(model):
        for pruned in layer.pruned_kernels:
            total = pruned.scale_gradient
            if total is not None:
                # It is not read where a block is dropped.
                total.assign(stored(total) * stored(pruned.mask))
    values = [np.array(w) for w in model.get_weights()]
    return values, model.predict(x[:8], verbose=0), history.history


def check_equal(make, keras, schedule):
    """Training with `schedule` gives the same with and without skipping."""
    lines, results = [], []
    skipping = sa.SkipPrunedBlocks(batch_size=8, choose="always", print_fn=lines.append)
    for callback in (sa.UpdatePruningStep(), skipping):
        keras.utils.set_random_seed(3)
        results.append(trained(make(keras), callback, schedule))
    masked, skipped = results
    assert {plan.layout for plan in skipping.plans} == {"packed"}, lines
    for plan in skipping.plans:
        assert any(plan.name in line for line in lines)
    for found, expected in zip(skipped[0], masked[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(skipped[1], masked[1], rtol=1e-3, atol=2e-4)
    for name, losses in masked[2].items():
        np.testing.assert_allclose(skipped[2][name], losses, rtol=1e-3)
    return skipping


@pytest.mark.filterwarnings("ignore:The phases")
def test_a_training_in_cycles_equals_the_masked_one(keras, monkeypatch):
    monkeypatch.setattr(skip_pruned_blocks, "_SHORTEST_PHASE", 5)
    schedule = sa.SequentialAttentionSchedule(0.7, end_step=100, cycles=2)
    check_equal(perceptron, keras, schedule)


def test_a_training_of_other_layers_equals_the_masked_one(keras):
    schedule = sa.SequentialAttentionSchedule(0.7, end_step=60)
    skipping = check_equal(network, keras, schedule)
    assert len(skipping.plans) == 7


def test_what_it_cannot_do_is_said(keras):
    with pytest.raises(ValueError, match="`choose` must be one of"):
        sa.SkipPrunedBlocks(choose="measure")
    with pytest.raises(ValueError, match="at least 1. Received: batch_size=0"):
        sa.SkipPrunedBlocks(batch_size=0)
    with pytest.raises(ValueError, match=r"sa\.UpdatePruningStep\.for_loop"):
        sa.SkipPrunedBlocks.for_loop(perceptron(keras))
    # Small products are faster with a mask, and a later `fit` without it is masked.
    inputs = keras.Input((8, 16))
    model = keras.Model(inputs, keras.layers.LSTM(16)(inputs))
    policy = sa.MinimumBlocks((4, 4), min_blocks=1)
    schedule = sa.OneShotSchedule(0.5, prune_step=1)
    model = sa.prune(model, schedule, block_size=(4, 4), pruning_policy=policy)
    model.compile("sgd", "mse")
    lines = []
    skipping = sa.SkipPrunedBlocks(choose="always", print_fn=lines.append)
    x = np.ones((8, 8, 16), "float32")
    model.fit(x, x[:, 0], verbose=0, callbacks=[skipping])
    assert all(plan.layout == "dense" for plan in skipping.plans)
    assert "no product from kept blocks for LSTM" in "\n".join(lines)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="on CPU")
def test_xla_is_said_to_gain_less(keras):
    policy = sa.MinimumBlocks((4, 4), min_blocks=1)
    schedule = sa.OneShotSchedule(0.5, prune_step=1)
    for xla in (True, False):
        model = sa.prune(
            perceptron(keras), schedule, block_size=(4, 4), pruning_policy=policy
        )
        model.compile("sgd", "mse", jit_compile=xla)
        lines = []
        skipping = sa.SkipPrunedBlocks(choose="always", print_fn=lines.append)
        x, y = np.ones((24, 6, 6, 8), "float32"), np.ones((24, 10), "float32")
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[skipping])
        assert "packed" in {plan.layout for plan in skipping.plans}
        assert ("jit_compile=False" in lines[-1]) == xla


@pytest.mark.filterwarnings("ignore:Training ended too early")
def test_a_later_fit_may_begin_in_another_phase(keras, monkeypatch):
    monkeypatch.setattr(skip_pruned_blocks, "_SHORTEST_PHASE", 5)
    schedule = sa.SequentialAttentionSchedule(0.7, end_step=100, cycles=2)
    results = []
    for first in (sa.UpdatePruningStep(), sa.SkipPrunedBlocks(choose="always")):
        keras.utils.set_random_seed(3)
        model = perceptron(keras)
        pruned = sa.prune(
            model,
            schedule,
            block_size=(4, 4),
            pruning_policy=sa.MinimumBlocks((4, 4), min_blocks=1),
        )
        pruned.compile(keras.optimizers.SGD(0.05), "mse")
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(8, 6, 6, 8)), rng.normal(size=(8, 10))
        # The first ends in the sparse phase of the first cycle.
        pruned.fit(x, y, epochs=45, verbose=0, callbacks=[first])
        pruned.fit(x, y, epochs=30, verbose=0, callbacks=[sa.UpdatePruningStep()])
        results.append(pruned.predict(x, verbose=0))
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-4)
