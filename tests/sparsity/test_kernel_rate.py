"""The learning rate of kept blocks, which grows as the sparsity rises."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import tf_seqattn as sa
from tf_seqattn.keras_api import stored
from tf_seqattn.kernels import blocks
from tf_seqattn.sparsity.kernel_rate import rate_gain

INPUTS, OUTPUTS, STEPS = 8, 4, 40
RATE = 0.05
SCHEDULE = {"target_sparsity": 0.75, "end_step": STEPS}


@hypothesis.given(
    kept=st.integers(1, 24), power=st.floats(0, 1), initial=st.floats(0, 0.9)
)
@hypothesis.settings(max_examples=30)
def test_gain_is_a_power_of_the_density(kept, power, initial):
    mask = np.arange(24).reshape(4, 6) < kept
    gain = rate_gain(tf.constant(mask, tf.float32), power, initial)
    density = min(1.0, mask.mean() / (1 - initial))
    np.testing.assert_allclose(gain, density**-power, rtol=1e-5)


def test_only_the_kernels_gradient_passes_the_gain_unchanged():
    random = np.random.default_rng(0)
    grid = blocks.BlockGrid((6, 4), (2, 2))
    kernel, values = random.normal(size=(6, 4)), random.normal(size=(3, 2))
    kernel, values = tf.constant(kernel), tf.constant(values)
    weights = random.normal(size=(6, 4))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([kernel, values])
        scaled = blocks.scale_blocks(
            kernel, values, grid, gain=tf.constant(3.0, tf.float64)
        )
        loss = tf.reduce_sum(weights * scaled)
    expanded = np.kron(values, np.ones((2, 2)))
    np.testing.assert_allclose(scaled, 3 * kernel * expanded)
    np.testing.assert_allclose(tape.gradient(loss, kernel), weights * expanded)
    by_block = (weights * kernel.numpy()).reshape(3, 2, 2, 2).sum((1, 3))
    np.testing.assert_allclose(tape.gradient(loss, values), 3 * by_block)


def wrapped(keras, importance=None, **schedule):
    layer = keras.layers.Dense(OUTPUTS, use_bias=False)
    pruned = sa.PrunableLayer(
        layer,
        sa.SequentialAttentionSchedule(**{**SCHEDULE, **schedule}),
        block_size=(2, 2),
        importance=importance,
    )
    pruned.build((None, INPUTS))
    pruned.steps_are_counted = True
    return pruned


def effective(layer):
    return np.asarray(layer.effective_kernel(layer.pruned_kernels[0]))


def masked_entries(layer):
    mask = np.asarray(stored(layer.pruned_kernels[0].mask))
    return np.kron(mask, np.ones((2, 2)))


def test_a_new_mask_changes_no_block_that_is_kept(keras):
    layer = wrapped(keras)
    before = effective(layer)
    for sparsity in (0.25, 0.5, 0.75, 0.5):
        layer.update_masks(tf.constant(sparsity))
        after = effective(layer)
        np.testing.assert_allclose(after, before * masked_entries(layer), rtol=1e-5)
    kernel = np.asarray(stored(layer.pruned_kernels[0].kernel.variable))
    np.testing.assert_allclose(kernel * np.sqrt(2), before, rtol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad"])
def test_every_optimizer_takes_larger_steps(keras, name):
    """Beside a layer whose rate does not grow, with a rate that is larger."""
    moved = []
    for power, rate in ((0.5, RATE), (0.0, 2 * RATE)):
        keras.utils.set_random_seed(0)
        layer = wrapped(keras, sa.Magnitude(), rate_power=power)
        layer.update_masks(tf.constant(0.75))
        model = keras.Sequential([keras.Input((INPUTS,)), layer])
        model.compile(getattr(keras.optimizers, name)(rate), "mse")
        random = np.random.default_rng(1)
        for _ in range(4):
            x = random.normal(size=(4, INPUTS)).astype("float32")
            model.train_on_batch(x, x[:, :OUTPUTS])
        moved.append(effective(layer))
    assert np.count_nonzero(moved[0]) == INPUTS * OUTPUTS // 4
    # Adagrad and Adam add a small number to what they divide by.
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-3)


def test_logits_learn_by_the_gradient_of_the_effective_kernel(keras):
    sums = []
    for power in (0.5, 0.0):
        keras.utils.set_random_seed(0)
        layer = wrapped(keras, rate_power=power)
        layer.update_masks(tf.constant(0.5))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(tf.ones((1, INPUTS)))))
        tape.gradient(loss, stored(layer.pruned_kernels[0].kernel.variable))
        sums.append(np.asarray(stored(layer.pruned_kernels[0].scale_gradient)))
    assert np.any(sums[1])
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-4, atol=1e-6)


def test_training_sparse_from_the_start_keeps_its_rate(keras):
    layer = wrapped(keras, initial_sparsity=0.75)
    layer.update_masks(tf.constant(0.75))
    (pruned,) = layer.pruned_kernels
    assert np.asarray(stored(pruned.mask)).mean() == 0.25
    assert float(layer.rate_gain(pruned)) == 1.0


def trained(keras, **options):
    random = np.random.default_rng(0)
    x = random.normal(size=(2 * STEPS, INPUTS)).astype("float32")
    y = x[:, :OUTPUTS]
    model = keras.Sequential([keras.Input((INPUTS,)), wrapped(keras, **options)])
    model.compile(keras.optimizers.SGD(RATE), "mse")
    model.fit(x, y, 2, verbose=0, callbacks=[sa.UpdatePruningStep()])
    return model, x


def test_what_is_saved_and_stripped_computes_the_same(keras, tmp_path):
    model, x = trained(keras)
    layer = sa.pruned_layers(model)[0]
    assert float(layer.rate_gain(layer.pruned_kernels[0])) == 2.0
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for same in (loaded, sa.strip_pruning(model)):
        np.testing.assert_allclose(
            same.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-6
        )


def test_a_schedule_from_an_older_file_leaves_the_rate():
    config = sa.SequentialAttentionSchedule(0.9, 100).get_config()["config"]
    assert sa.SequentialAttentionSchedule.from_config(config).rate_power == 0.5
    del config["rate_power"]
    assert sa.SequentialAttentionSchedule.from_config(config).rate_power == 0.0


def has_no_gain(layer):
    (pruned,) = layer.pruned_kernels
    layer.update_masks(tf.constant(0.5))
    return layer.rate_gain(pruned) is None


def test_where_the_rate_stays_as_it_is(keras):
    assert has_no_gain(wrapped(keras, rate_power=0.0))
    assert has_no_gain(wrapped(keras, cycles=2))
    # Its multipliers are norms of the stored kernel.
    assert has_no_gain(wrapped(keras, sa.PowerPropagation()))
    assert not has_no_gain(wrapped(keras, sa.Magnitude()))
    gradual = sa.PrunableLayer(
        keras.layers.Dense(OUTPUTS), sa.GradualSchedule(0.75, STEPS), (2, 2)
    )
    gradual.build((None, INPUTS))
    assert has_no_gain(gradual)


def test_a_coarse_kernel_is_not_divided_again_and_again(keras):
    layer = keras.layers.Dense(OUTPUTS, dtype="bfloat16")
    schedule = sa.SequentialAttentionSchedule(**SCHEDULE)
    pruned = sa.PrunableLayer(layer, schedule, block_size=(2, 2))
    pruned.build((None, INPUTS))
    assert has_no_gain(pruned)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_power_out_of_range_is_named(value):
    with pytest.raises(ValueError, match=f"`rate_power`.*{value}"):
        sa.SequentialAttentionSchedule(0.9, 100, rate_power=value)


def test_the_papers_kind_takes_no_power():
    with pytest.raises(ValueError, match="`rate_power` is for a single rise"):
        sa.SequentialAttentionSchedule(0.9, 100, cycles=2, rate_power=0.5)
