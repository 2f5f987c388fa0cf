"""Pruning that does not do what the user asked is never silent."""

import logging

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa

pytestmark = pytest.mark.usefixtures("keras")
ALL = sa.PruningPolicy()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 8)).astype("float32")
Y = (X @ RNG.normal(size=(8, 8))).astype("float32")


def pruned_model(schedule, importance=None):
    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    pruned = sa.prune(model, schedule, (2, 2), importance or sa.Magnitude(), ALL)
    pruned.compile("sgd", "mse")
    return pruned


def fit(pruned, epochs=1, callbacks=(), **kwargs):
    # Ten steps for each epoch.
    return pruned.fit(
        X,
        Y,
        batch_size=4,
        epochs=epochs,
        verbose=0,
        callbacks=[sa.UpdatePruningStep(), *callbacks],
        **kwargs,
    )


def messages(caught):
    return [str(w.message) for w in caught if w.category is sa.PruningWarning]


# Training that ends before the schedule.


@pytest.mark.filterwarnings("always")
def test_training_that_ends_too_early_warns_at_the_line_of_the_user(recwarn):
    pruned = pruned_model(sa.OneShotSchedule(0.75, prune_step=100))
    fit(pruned)
    (warning,) = [w for w in recwarn if w.category is sa.PruningWarning]
    assert warning.filename == __file__
    assert "at step 10, 1 of 1 pruned kernels" in str(warning.message)
    assert "75.0% sparsity was requested, 0.0% is reached" in str(warning.message)
    assert "until the schedule ends, at step 100" in str(warning.message)
    # A second `fit` may follow on purpose.
    fit(pruned)
    assert len(messages(recwarn)) == 1


@pytest.mark.filterwarnings("always")
def test_stripping_too_early_warns_once(recwarn, tmp_path):
    model = keras.Sequential(
        [keras.layers.Dense(8, input_shape=(8,)), keras.layers.Dense(8)]
    )
    schedule = sa.OneShotSchedule(0.75, prune_step=100)
    sa.strip_pruning(sa.prune(model, schedule, (2, 2), pruning_policy=ALL))
    (warning,) = [w for w in recwarn if w.category is sa.PruningWarning]
    assert warning.filename == __file__
    assert "2 of 2 pruned kernels" in str(warning.message)
    for export in (sa.pack, lambda m: sa.export_saved_model(m, tmp_path / "model")):
        recwarn.clear()
        export(pruned_model(schedule))
        (warning,) = [w for w in recwarn if w.category is sa.PruningWarning]
        assert warning.filename == __file__


def tfmots(name, **arguments):
    from tf_seqattn import tfmot_api

    return tfmot_api.schedule_class(name)(**arguments)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "schedule",
    [
        sa.OneShotSchedule(0.85, prune_step=5),
        sa.SequentialAttentionSchedule(0.85, end_step=10, cycles=1),
        tfmots("ConstantSparsity", target_sparsity=0.85, begin_step=5, frequency=1),
        tfmots(
            "PolynomialDecay",
            initial_sparsity=0.0,
            final_sparsity=0.85,
            begin_step=0,
            end_step=9,
            frequency=1,
        ),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_no_false_alarm(schedule):
    # A warning of ours is an error in the tests.
    pruned = pruned_model(schedule)
    fit(pruned)
    sa.strip_pruning(pruned)


def test_no_false_alarm_without_training():
    # 10 blocks: 15 % of them are 1 or 2, as the sparsity is rounded.
    layer = keras.layers.Dense(10)
    layer.build((None, 2))
    schedule = sa.OneShotSchedule(0.85, prune_step=0)
    sa.strip_pruning(sa.PrunableLayer(layer, schedule, (2, 1), sa.Magnitude()))
    square = keras.layers.Dense(8)
    square.build((None, 8))
    sa.strip_pruning(
        sa.PrunableLayer(square, schedule, (2, 1), sa.Magnitude(), balanced=True)
    )


def test_a_training_that_a_callback_stops_too_early():
    with pytest.warns(sa.PruningWarning, match="A callback stopped it.*AfterPruning"):
        fit_with([keras.callbacks.EarlyStopping(patience=1)])


def test_a_pattern_is_at_its_target_when_nothing_decays():
    pruned = sa.prune(
        keras.Sequential([keras.layers.Dense(8, input_shape=(8,))]),
        sa.OneShotSchedule(0.5, prune_step=3),
        importance=sa.Magnitude(),
        pruning_policy=ALL,
        pattern="2:4",
    )
    pruned.compile("sgd", "mse")
    with pytest.warns(sa.PruningWarning, match="0.0% is reached"):
        pruned.fit(X, Y, batch_size=20, verbose=0, callbacks=[sa.UpdatePruningStep()])
    fit(pruned)
    sa.strip_pruning(pruned)


# Callbacks that keep the best weights.


class Losses(sa.UpdatePruningStep):
    """Writes a made-up validation loss: 0.1 while dense, then 0.9, 0.5, 0.7."""

    LOSSES = (0.1, 0.2, 0.9, 0.5, 0.7)

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.LOSSES[epoch]


def fit_with(callbacks, epochs=5):
    pruned = pruned_model(sa.OneShotSchedule(0.75, prune_step=25))
    pruned.fit(
        X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[Losses(), *callbacks]
    )
    return pruned


def test_the_best_weights_are_those_of_a_pruned_model(tmp_path):
    path = str(tmp_path / "best.keras")
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_best_only=True)
    stop = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    pruned = fit_with([sa.AfterPruning(checkpoint), sa.AfterPruning(stop)])
    kept = keras.models.load_model(path)
    for model in (pruned, kept):
        layer = sa.pruned_layers(model)[0]
        assert layer.steps_begun == 40  # four epochs
        assert int(layer.masks[0].numpy().sum()) == 4
    assert checkpoint.best == 0.5 and stop.stopped_epoch == 4


def test_callbacks_that_keep_a_dense_model_are_named(tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.keras"), save_best_only=True
    )
    stop = keras.callbacks.EarlyStopping(patience=9, restore_best_weights=True)
    with pytest.warns(
        sa.PruningWarning, match="ModelCheckpoint and EarlyStopping.*AfterPruning"
    ):
        fit_with([checkpoint, stop])


def test_callbacks_that_keep_the_last_weights_are_fine(tmp_path):
    path = str(tmp_path / "last.keras")
    fit_with(
        [
            keras.callbacks.ModelCheckpoint(path),
            keras.callbacks.EarlyStopping(patience=9),
        ]
    )


def test_after_pruning_takes_a_callback():
    with pytest.raises(ValueError, match="`callback` must be a callback of Keras"):
        sa.AfterPruning("best.keras")


# Phases of a few steps.


@pytest.mark.filterwarnings("always")
def test_short_phases_are_named_when_training_begins(recwarn):
    pruned = pruned_model(sa.SequentialAttentionSchedule(0.75, 120, cycles=10))
    assert not messages(recwarn)
    sa.UpdatePruningStep.for_loop(pruned)
    (warning,) = messages(recwarn)
    assert "have 2 to 13 steps" in warning and "cycles" in warning
    recwarn.clear()
    for schedule in (
        sa.SequentialAttentionSchedule(0.75, 600, cycles=5),
        sa.OneShotSchedule(0.75, prune_step=2),
    ):
        sa.UpdatePruningStep.for_loop(pruned_model(schedule))
    assert not messages(recwarn)


# A training step with its own optimizer.


def contrastive(optimizer):
    class Contrastive(keras.Model):
        def __init__(self, network):
            super().__init__()
            self.network = network
            self.own = optimizer

        def call(self, inputs):
            return self.network(inputs)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            weights = self.network.trainable_variables
            gradients = tape.gradient(loss, weights)
            self.own.apply_gradients(zip(gradients, weights, strict=True))
            return {"loss": loss}

    model = Contrastive(
        pruned_model(sa.OneShotSchedule(0.75, prune_step=5), sa.Magnitude())
    )
    model(X)
    model.compile("sgd")
    return model


def test_an_optimizer_that_takes_no_step_is_noticed():
    model = contrastive(keras.optimizers.Adam())
    with pytest.warns(
        sa.PruningWarning, match=r"4 training steps.*SGD.*optimizer=\.\.\."
    ):
        fit(model)
    assert int(model.own.iterations) == 10


@pytest.mark.parametrize("several", [False, True])
def test_the_right_optimizer_is_reset(several):
    model = contrastive(keras.optimizers.Adam())
    given = [model.own] if several else model.own
    model.fit(
        X,
        Y,
        batch_size=4,
        verbose=0,
        callbacks=[sa.UpdatePruningStep(optimizer=given)],
    )
    assert int(model.own.iterations) == 6


# Layers left alone.


def test_layers_left_alone_are_named_in_one_line(caplog):
    model = keras.Sequential(
        [
            keras.layers.Dense(64, input_shape=(64,), name="large"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(8, name="small"),
        ]
    )
    with caplog.at_level(logging.WARNING, "tf_seqattn"):
        sa.prune(model, sa.OneShotSchedule(0.75, prune_step=5), (4, 4))
    (line,) = caplog.messages
    assert line == (
        "sa.prune wrapped 1 layers and left 1 with a kernel alone (small). "
        "sa.summary(model) says why."
    )
