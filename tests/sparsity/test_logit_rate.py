"""The logits' own learning rate."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.keras_api import stored
from tf_seqattn.kernels import blocks
from tf_seqattn.sparsity import logit_rate

keras = layers = None  # set by the fixture `keras`
INPUTS, OUTPUTS, SIDE, STEPS = 8, 8, 2, 30


def data(seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(4 * STEPS, INPUTS)).astype("float32")
    return x, x @ random.normal(size=(INPUTS, OUTPUTS)).astype("float32")


def pruned_model(schedule=None, importance=None, optimizer="sgd"):
    keras.utils.set_random_seed(0)
    layer = layers.Dense(OUTPUTS, use_bias=False)
    model = keras.Sequential([keras.Input((INPUTS,)), layer])
    model = sa.prune(
        model,
        schedule or sa.GradualSchedule(0.75, end_step=STEPS),
        block_size=(SIDE, SIDE),
        importance=importance,
        pruning_policy=AnySize(),
    )
    model.compile(optimizer, "mse")
    return model


class AnySize(sa.PruningPolicy):
    def allow_pruning(self, layer):
        return True


def fit(model, steps=STEPS, **options):
    x, y = data()
    callbacks = [sa.UpdatePruningStep()]
    rows = slice(0, 4 * steps)
    model.fit(
        x[rows], y[rows], 4, verbose=0, shuffle=False, callbacks=callbacks, **options
    )
    return sa.pruned_layers(model)[0].pruned_kernels[0]


def test_gradient_agrees_with_finite_differences():
    grid = blocks.BlockGrid((4, 6), (2, 3))
    random = np.random.default_rng(0)
    kernel = tf.constant(random.normal(size=(4, 6)), tf.float32)
    logits = tf.constant(random.normal(size=(2, 2)) / 3, tf.float32)
    mask = tf.constant([[1.0, 0.0], [1.0, 1.0]])
    scale_gradient = tf.constant(random.normal(size=(2, 2)), tf.float32)
    importance = sa.SoftmaxAttention(l2=0.1)

    def loss(flat):
        attention = 4 * np.exp(flat) / np.exp(flat).sum()
        at_blocks = attention.reshape(2, 2) * mask.numpy() * scale_gradient.numpy()
        return at_blocks.sum() + 0.1 * np.square(flat).sum()

    flat = logits.numpy().astype("float64").ravel()
    expected = [
        (loss(flat + 1e-4 * unit) - loss(flat - 1e-4 * unit)) / 2e-4
        for unit in np.eye(4)
    ]
    found = logit_rate.logit_gradient(
        importance, kernel, logits, mask, grid, None, scale_gradient
    )
    np.testing.assert_allclose(found.numpy().ravel(), expected, atol=1e-4)


def test_a_steady_gradient_moves_a_logit_by_half_the_rate():
    moved, mean_square = np.zeros(2), tf.constant(0.0)
    gradient = tf.constant([1.0, -1.0])
    for step in range(1, 1001):
        one = tf.constant(1.0)
        mean_square = logit_rate.mean_square_after(mean_square, gradient, one)
        done = tf.constant(float(step))
        moved -= logit_rate.logit_step(gradient, mean_square, 3.0, done, 1000).numpy()
    np.testing.assert_allclose(moved, [-1.5, 1.5], rtol=2e-3)


@pytest.mark.filterwarnings("ignore:Training ended")
def test_training_agrees_with_plain_numpy(keras):
    """Two steps of SGD, from the gradient of the loss in each block's factor."""
    model = pruned_model(sa.GradualSchedule(0.75, end_step=STEPS, begin_step=STEPS - 1))
    kernel = np.array(stored(sa.pruned_layers(model)[0].layer.kernel))
    x, y = data()
    kept = fit(model, steps=3)
    logits = np.zeros((4, 4))
    mean_square = 0.0
    for step in range(2):  # the last step's gradient waits for the next step
        batch, wanted = x[4 * step :][:4], y[4 * step :][:4]
        attention = np.exp(logits) / np.exp(logits).mean()
        factors = attention.repeat(SIDE, 0).repeat(SIDE, 1)
        upstream = batch.T @ (batch @ (kernel * factors) - wanted) * 2 / wanted.size
        by_block = (upstream * kernel).reshape(4, SIDE, 4, SIDE).sum((1, 3))
        gradient = attention * (by_block - (attention * by_block).mean())
        kernel = kernel - 0.01 * upstream * factors
        mean_square = 0.999 * mean_square + 0.001 * np.square(gradient).mean()
        typical = np.sqrt(mean_square / (1 - 0.999 ** (step + 1)))
        logits -= 0.5 / STEPS * (1 - (step + 1) / STEPS) * gradient / typical
    assert np.abs(logits).max() > 0.005
    np.testing.assert_allclose(stored(kept.logits), logits, rtol=2e-3, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_the_optimizer_does_not_train_the_logits(keras, optimizer):
    model = pruned_model(optimizer=optimizer)
    assert len(model.trainable_variables) == 1
    kept = fit(model)
    # The blocks differ, and by about as much whatever the optimizer's rate is.
    assert 0.01 < np.std(stored(kept.logits)) < 0.5


def test_the_paper_leaves_them_to_the_optimizer(keras):
    model = pruned_model(importance=sa.SoftmaxAttention.paper())
    assert len(model.trainable_variables) == 2
    kept = sa.pruned_layers(model)[0].pruned_kernels[0]
    assert kept.scale_gradient is None and kept.mean_square is None


def test_without_an_end_the_optimizer_trains_them(keras):
    class Endless(sa.PruningSchedule):
        def phase(self, step):
            return sa.Phase.DENSE

        def __call__(self, step):
            return tf.constant(False), tf.constant(0.0)

        def get_config(self):
            return {"class_name": "Endless", "config": {}}

    assert len(pruned_model(Endless()).trainable_variables) == 2


@pytest.mark.filterwarnings("ignore:Training ended")
def test_a_gradient_that_is_not_finite_is_left_out(keras):
    model = pruned_model()
    kept = sa.pruned_layers(model)[0].pruned_kernels[0]
    x, y = data()
    x[0, 0] = np.inf
    model.fit(x[:8], y[:8], 4, verbose=0, shuffle=False,
              callbacks=[sa.UpdatePruningStep()])  # fmt: skip
    assert np.isfinite(stored(kept.logits)).all()
    assert np.isfinite(stored(kept.scale_gradient)).all()


def test_a_backward_pass_outside_of_training_raises_and_adds_nothing(keras):
    model = pruned_model()
    kept = fit(model)
    before = np.array(stored(kept.scale_gradient))
    x, _ = data()
    with pytest.raises(RuntimeError, match="nothing counts"):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x[:4], training=True))
        tape.gradient(loss, model.trainable_variables[0])
    np.testing.assert_array_equal(stored(kept.scale_gradient), before)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_rate_is_refused(rate):
    with pytest.raises(ValueError, match="logit_rate"):
        sa.SoftmaxAttention(logit_rate=rate)


@pytest.mark.filterwarnings("ignore:Training ended")
def test_logits_of_a_long_training_move_every_few_steps(keras):
    """All gradients since the last move count, whether a `fit` ended in between."""
    model = pruned_model(sa.GradualSchedule(0.75, end_step=1000))
    kept = sa.pruned_layers(model)[0].pruned_kernels[0]
    x, y = data()
    seen, sums = [], []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(np.array(stored(kept.logits)))
            sums.append(np.abs(stored(kept.scale_gradient)).sum())

    for rows in (slice(0, 12), slice(12, 40)):
        callbacks = [sa.UpdatePruningStep(), Record()]
        model.fit(x[rows], y[rows], 4, verbose=0, shuffle=False, callbacks=callbacks)
    moved = [bool((now != before).any()) for before, now in itertools.pairwise(seen)]
    assert moved == [False, False, False, True, False, False, False, True, False]
    assert sums[3] > 1.5 * sums[4] and sums[7] > 1.5 * sums[8]


def test_fewer_moves_move_logits_about_as_far():
    random = np.random.default_rng(0)
    gradients = tf.constant(random.normal(0.3, 1.0, (1000, 64)), tf.float32)
    moved = {}
    for every in (1, 4):
        logits, mean_square = tf.zeros(64), tf.constant(0.0)
        for step in range(every, 1001, every):
            gradient = tf.reduce_sum(gradients[step - every : step], 0)
            mean_square = logit_rate.mean_square_after(
                mean_square, gradient, tf.constant(float(every))
            )
            logits -= logit_rate.logit_step(
                gradient, mean_square, 1.0, tf.constant(float(step)), 1000
            )
        moved[every] = logits.numpy()
    # The sum of a steady part grows faster than that of the noise: 4 against 2.
    ratio = moved[4].mean() / moved[1].mean()
    assert 0.85 < ratio < 1.0, ratio
    assert np.corrcoef(moved[1], moved[4])[0, 1] > 0.99
