"""Taylor scores: the change of the loss without a block, from the gradients."""

import numpy as np
import pytest
import tf_keras as keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tf_seqattn as sa

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")


def squared_changes(x, y, kernel, block):
    """`sum(W * gradient)^2` of each block, for the mean squared error of `x @ W`."""
    gradient = 2 * x.T @ (x @ kernel - y) / y.size
    rows, columns = (size // block for size in kernel.shape)
    products = (kernel * gradient).reshape(rows, block, columns, block)
    return products.sum((1, 3)) ** 2


def linear_model(rows=8, columns=4):
    model = keras.Sequential(
        [keras.Input((rows,)), layers.Dense(columns, use_bias=False, name="d")]
    )
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=(rows, columns))])
    return model


def prune(model, schedule, importance):
    policy = sa.PruningPolicy()
    return sa.prune(model, schedule, (2, 2), importance, pruning_policy=policy)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_scores_are_mean_squares_over_the_steps(jit_compile):
    model = linear_model()
    kernel = model.get_weights()[0]
    schedule = sa.OneShotSchedule(0.5, prune_step=3)
    pruned = prune(model, schedule, sa.Taylor(decay=0.8))
    pruned.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    random = np.random.default_rng(1)
    x = random.normal(size=(3, 16, 8)).astype("float32")
    y = random.normal(size=(3, 16, 4)).astype("float32")
    expected = np.zeros((4, 2))
    # Masks are set before the gradient of the step before is taken in.
    for batch in range(1):
        changes = squared_changes(x[batch], y[batch], kernel, 2)
        expected = 0.8 * expected + 0.2 * changes
    pruned.fit(
        x.reshape(48, 8),
        y.reshape(48, 4),
        batch_size=16,
        epochs=2,
        shuffle=False,
        callbacks=[sa.UpdatePruningStep()],
        verbose=0,
    )
    (found,) = sa.pruned_layers(pruned)[0].pruned_kernels
    kept = np.asarray(found.mask) > 0
    order = np.argsort(expected.ravel())
    assert kept.ravel()[order[4:]].all() and not kept.ravel()[order[:4]].any()
    norms = np.linalg.norm(kernel.reshape(4, 2, 2, 2), axis=(1, 3)).ravel()
    assert set(np.argsort(norms)[4:]) != set(order[4:]), "magnitude would differ"


def test_the_logits_are_the_mean_of_all_steps_but_the_last():
    model = linear_model()
    kernel = model.get_weights()[0]
    schedule = sa.OneShotSchedule(0.5, prune_step=4)
    pruned = prune(model, schedule, sa.Taylor(decay=0.8))
    pruned.compile(keras.optimizers.SGD(0.0), "mse")
    random = np.random.default_rng(1)
    x, y = random.normal(size=(4, 16, 8)), random.normal(size=(4, 16, 4))
    expected = np.zeros((4, 2))
    for batch in range(3):
        changes = squared_changes(x[batch], y[batch], kernel, 2)
        expected = 0.8 * expected + 0.2 * changes
    pruned.fit(
        x.reshape(64, 8),
        y.reshape(64, 4),
        batch_size=16,
        shuffle=False,
        callbacks=[sa.UpdatePruningStep()],
        verbose=0,
    )
    (found,) = sa.pruned_layers(pruned)[0].pruned_kernels
    np.testing.assert_allclose(np.asarray(found.logits), expected, rtol=1e-4)


def test_channels_are_ranked_by_all_their_readers():
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu", name="hidden")(inputs)
    outputs = layers.Add()([layers.Dense(3)(x), layers.Dense(3)(x)])
    model = keras.Model(inputs, outputs)
    random = np.random.default_rng(0)
    x = random.normal(size=(256, 6)).astype("float32")
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    # Half of the channels become silent in the targets and stay large in the weights.
    weights = model.get_weights()
    silent = np.arange(0, 16, 2)
    teacher = keras.models.clone_model(model)
    cut = [w.copy() for w in weights]
    for w in cut:
        if w.shape == (16, 3):
            w[silent] = 0
    teacher.set_weights(cut)
    y = teacher.predict(x, verbose=0)
    pruned = sa.prune(
        model, sa.GradualSchedule(0.5, end_step=60), "channels", sa.Taylor(), round_to=1
    )
    pruned.compile(keras.optimizers.Adam(0.02), "mse")
    pruned.fit(
        x, y, batch_size=32, epochs=12, verbose=0, callbacks=[sa.UpdatePruningStep()]
    )
    before = float(np.mean(np.square(y - y.mean(0))))
    assert pruned.evaluate(x, y, verbose=0) < 0.1 * before
    assert sa.shrink(pruned).get_layer("hidden").units == 8


def test_the_score_of_a_channel_is_the_change_through_all_its_readers():
    inputs = keras.Input((6,))
    hidden = layers.Dense(16, name="hidden")(inputs)
    readers = [layers.Dense(3, use_bias=False) for _ in range(2)]
    outputs = layers.Add()([reader(hidden) for reader in readers])
    model = keras.Model(inputs, outputs)
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    x, y = random.normal(size=(32, 6)), random.normal(size=(32, 3))
    weights, bias = model.get_layer("hidden").get_weights()
    kernels = [reader.get_weights()[0] for reader in readers]
    read = x @ weights + bias
    slope = 2 * (read @ sum(kernels) - y) / y.size
    changes = sum((kernel * (read.T @ slope)).sum(axis=1) for kernel in kernels)
    pruned = sa.prune(
        model,
        sa.OneShotSchedule(0.5, prune_step=3),
        "channels",
        sa.Taylor(),
        round_to=1,
    )
    pruned.compile(keras.optimizers.SGD(0.0), "mse")
    callbacks = [sa.UpdatePruningStep()]
    pruned.fit(x, y, batch_size=32, epochs=3, verbose=0, callbacks=callbacks)
    (found,) = sa.pruned_layers(pruned)[0].pruned_kernels
    kept = np.flatnonzero(np.asarray(found.mask)[:, 0])
    np.testing.assert_array_equal(kept, np.sort(np.argsort(changes**2)[8:]))


def test_it_is_saved_shown_and_checked(tmp_path):
    schedule = sa.GradualSchedule(0.5, end_step=4)
    pruned = prune(linear_model(), schedule, sa.Taylor(0.9))
    pruned.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    pruned.fit(
        x,
        x[:, :4],
        batch_size=8,
        verbose=0,
        callbacks=[sa.UpdatePruningStep(), sa.PruningSummaries(tmp_path / "logs")],
    )
    pruned.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    (layer,) = sa.pruned_layers(loaded)
    assert layer.importance == sa.Taylor(0.9)
    logits = np.asarray(layer.pruned_kernels[0].logits)
    assert (logits > 0).all()
    sa.report(loaded, tmp_path / "report.html")
    with pytest.raises(ValueError, match="`decay` must be at least 0 and below 1"):
        sa.Taylor(1.0)


def test_gradients_count_with_a_schedule_without_end():
    """The blocks with the largest norms read inputs that are always zero."""
    model = linear_model()
    kernel = model.get_weights()[0]
    kernel[:4] *= 10
    model.set_weights([kernel])
    schedule = tfmot.ConstantSparsity(0.5, begin_step=8, frequency=4)
    pruned = prune(model, schedule, sa.Taylor())
    pruned.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.random.default_rng(1).normal(size=(160, 8)).astype("float32")
    x[:, :4] = 0
    pruned.fit(x, np.ones((160, 4)), 16, callbacks=[sa.UpdatePruningStep()], verbose=0)
    (found,) = sa.pruned_layers(pruned)[0].pruned_kernels
    np.testing.assert_array_equal(np.asarray(found.mask), [[0, 0]] * 2 + [[1, 1]] * 2)
