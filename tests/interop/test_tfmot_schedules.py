"""Our schedules run inside tfmot's wrapper, and tfmot's inside ours."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import tf_seqattn as sa

sparsity = tfmot.sparsity.keras

STEPS = 60
OURS = [
    sa.SequentialAttentionSchedule(0.75, end_step=50, cycles=3),
    sa.SequentialAttentionSchedule(0.75, end_step=50, cycles=2, frequency=4),
    sa.SequentialAttentionSchedule(0.5, end_step=50, begin_step=10, cycles=2),
    sa.ACDCSchedule(0.75, end_step=50, cycles=3),
    sa.OneShotSchedule(0.5, prune_step=7),
]
TFMOT = [
    sparsity.ConstantSparsity(0.75, begin_step=5, frequency=1),
    sparsity.ConstantSparsity(0.5, begin_step=5, end_step=30, frequency=10),
    sparsity.PolynomialDecay(0.25, 0.75, begin_step=5, end_step=50, frequency=5),
]


class _Recorder(keras.callbacks.Callback):
    """Notes, after each training step, its number and the sparsity of the mask."""

    def __init__(self, step, mask):
        super().__init__()
        self.step, self.mask, self.seen = step, mask, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((int(self.step), 1.0 - float(np.mean(self.mask))))


def train(model, counter, recorder):
    keras.utils.set_random_seed(0)
    inputs = tf.random.normal((8 * STEPS, 16))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(inputs, inputs, batch_size=8, verbose=0, callbacks=[counter, recorder])
    return recorder.seen


def expected(schedule, steps, blocks):
    """Sparsity of the mask after each step: that of the last update, in blocks."""
    level, levels = 0.0, []
    for step in steps:
        should_prune, asked = schedule(tf.constant(step, tf.int64))
        if should_prune:
            level = 1.0 - np.round(blocks * (1.0 - float(asked))) / blocks
        levels.append(level)
    return levels


@pytest.mark.parametrize("schedule", OURS, ids=repr)
def test_our_schedule_inside_prune_low_magnitude(schedule):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)])
    pruned = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    [wrapper] = pruned.layers
    [(_, mask, _)] = wrapper.pruning_vars
    recorder = _Recorder(wrapper.pruning_step, mask)
    steps, levels = zip(
        *train(pruned, sparsity.UpdatePruningStep(), recorder), strict=True
    )
    np.testing.assert_allclose(levels, expected(schedule, steps, 256), atol=1e-6)
    assert levels[-1] == schedule.target_sparsity


@pytest.mark.parametrize("schedule", OURS, ids=repr)
def test_our_schedule_survives_saving_by_tfmot(schedule, tmp_path):
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)])
    pruned = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    pruned.save(tmp_path / "pruned.keras")
    with sparsity.prune_scope(), sa.prune_scope():
        loaded = keras.models.load_model(tmp_path / "pruned.keras", compile=False)
    assert loaded.layers[0].pruning_schedule == schedule


@pytest.mark.parametrize("schedule", TFMOT, ids=lambda s: repr(s.get_config()))
@pytest.mark.parametrize("importance", [sa.SoftmaxAttention(), sa.Magnitude()])
def test_schedule_of_tfmot_inside_our_wrapper(schedule, importance):
    keras.utils.set_random_seed(0)
    layer = sa.PrunableLayer(
        keras.layers.Dense(16), schedule, block_size=(2, 2), importance=importance
    )
    pruned = keras.Sequential([keras.Input((16,)), layer])
    [kernel] = layer.pruned_kernels
    recorder = _Recorder(layer.pruning_step, kernel.mask)
    steps, levels = zip(*train(pruned, sa.UpdatePruningStep(), recorder), strict=True)
    assert steps == tuple(range(1, STEPS + 1))
    np.testing.assert_allclose(levels, expected(schedule, steps, 64), atol=1e-6)
    assert levels[-1] > 0
