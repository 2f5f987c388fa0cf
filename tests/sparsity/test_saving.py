"""Saving mid-phase in every format, and resuming an interrupted run."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.keras_api import Callback

# Every test runs on Keras 2 and on Keras 3.
# Most trainings here stop in the middle of the schedule.
pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning"),
]
SCHEDULE = sa.SequentialAttentionSchedule(0.75, 40, cycles=2)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 8)).astype("float32")
Y = (X @ RNG.normal(size=(8, 8))).astype("float32")


def data():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def make_model(compiled=True):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.layers.Dense(8, input_shape=(8,)), keras.layers.Dense(8)]
    )
    model = sa.prune(model, SCHEDULE, (2, 2), pruning_policy=sa.PruningPolicy())
    if compiled:
        rate = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.7)
        model.compile(keras.optimizers.Adam(rate), "mse")
    return model


def train(model, start, stop):
    part = data().skip(start).take(stop - start)
    model.fit(part, verbose=0, callbacks=[sa.UpdatePruningStep()])


def assert_same_weights(a, b):
    assert len(a.weights) == len(b.weights)
    for x, y in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy(), err_msg=x.name)


def save_keras(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def save_h5(model, folder):
    model.save(folder / "model.h5")
    # Keras 3 cannot load the loss "mse" from this format, even for a plain model.
    compiled = keras.__name__ == "tf_keras"
    return keras.models.load_model(folder / "model.h5", compile=compiled)


def save_tf(model, folder):
    if keras.__name__ == "keras":
        pytest.skip("Keras 3 cannot load a SavedModel as a model")
    model.save(folder / "saved", save_format="tf")
    return keras.models.load_model(folder / "saved")


def save_weights_h5(model, folder):
    model.save_weights(folder / "w.weights.h5")
    loaded = make_model()
    loaded.load_weights(folder / "w.weights.h5")
    return loaded


def save_checkpoint(model, folder):
    path = tf.train.Checkpoint(model=model).save(str(folder / "ckpt"))
    loaded = make_model()
    # Variables that training makes later are restored when it does.
    tf.train.Checkpoint(model=loaded).restore(path)
    return loaded


FORMATS = {
    f.__name__: f
    for f in (save_keras, save_h5, save_tf, save_weights_h5, save_checkpoint)
}
# Formats that keep the optimizer, so training continues as if it never stopped. Keras
# restores no optimizer from a SavedModel, even for a plain model.
EXACT = ("save_keras", "save_h5", "save_checkpoint")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stop", [18, 30])
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.exhaustive
def test_saved_in_mid_phase(name, stop, tmp_path):
    model = make_model()
    train(model, 0, stop)
    assert SCHEDULE.phase(stop) == sa.Phase.SPARSIFICATION
    loaded = FORMATS[name](model, tmp_path)
    np.testing.assert_allclose(loaded(X), model(X), rtol=1e-6)
    for a, b in zip(sa.pruned_layers(model), sa.pruned_layers(loaded), strict=True):
        assert a.steps_begun == b.steps_begun == stop
        np.testing.assert_array_equal(a.masks[0], b.masks[0])
        np.testing.assert_array_equal(a.logits[0], b.logits[0])
        assert b.pruning_schedule == SCHEDULE and b.importance == a.importance
    if name in EXACT and getattr(loaded, "optimizer", None) is not None:
        train(model, stop, 40)
        train(loaded, stop, 40)
        for a, b in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=a.name)
        assert float(loaded.optimizer.learning_rate) == pytest.approx(
            float(model.optimizer.learning_rate)
        )


def test_the_stripped_model_saves_without_us(tmp_path):
    model = make_model()
    train(model, 0, 40)
    stripped = sa.strip_pruning(model)
    stripped.save(tmp_path / "plain.keras")
    code = f"""
import sys, numpy as np, {keras.__name__} as keras
model = keras.models.load_model({str(tmp_path / "plain.keras")!r})
assert "tf_seqattn" not in sys.modules
assert np.mean(model.layers[0].kernel.numpy() == 0) == 0.75
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_serving_function_computes_with_the_mask(tmp_path):
    model = make_model()
    train(model, 0, 25)
    tf.saved_model.save(model, str(tmp_path / "serving"))
    serve = tf.saved_model.load(str(tmp_path / "serving")).signatures["serving_default"]
    (output,) = serve(tf.constant(X)).values()
    np.testing.assert_allclose(output, model(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stripped", [True, False])
def test_export_of_keras_3(keras, stripped, tmp_path):
    if keras.__name__ == "tf_keras":
        pytest.skip("Keras 2 has no `model.export` of this kind")
    model = make_model()
    train(model, 0, 25)
    expected = model(X).numpy()
    model = sa.strip_pruning(model) if stripped else model
    model.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    output = served.serve(tf.constant(X))
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    model.export(str(tmp_path / "m.tflite"), format="litert", verbose=False)
    assert (tmp_path / "m.tflite").stat().st_size > 0


def test_prune_scope_and_a_fresh_process(tmp_path):
    model = make_model()
    train(model, 0, 20)
    model.save(tmp_path / "pruned.keras")
    expected = model(X[:1]).numpy().tolist()
    code = f"""
import numpy as np, {keras.__name__} as keras, tf_seqattn as sa
with sa.prune_scope():
    model = keras.models.load_model({str(tmp_path / "pruned.keras")!r})
assert sa.pruned_layers(model)[0].steps_begun == 20
x = np.array({X[:1].tolist()}, "float32")
np.testing.assert_allclose(model(x), {expected}, rtol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


class Interrupted(Exception):
    pass


class Interrupt(Callback):
    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise Interrupted


def fit_with_backup(folder, first, save_freq, interrupt=None):
    model = make_model()
    backup = keras.callbacks.BackupAndRestore(str(folder), save_freq=save_freq)
    callbacks = [backup, sa.UpdatePruningStep()]
    if not first:
        callbacks.reverse()
    if interrupt:
        callbacks.append(Interrupt(interrupt))
    # A resumed epoch restarts its data, so every step has the same batch.
    batch = data().take(1).repeat(40)
    model.fit(batch, epochs=2, verbose=0, callbacks=callbacks)
    return model


@pytest.mark.parametrize("backup_first", [True, False])
@pytest.mark.parametrize(
    ("save_freq", "interrupt"),
    [("epoch", 50), (5, 13), pytest.param(5, 61, marks=pytest.mark.slow)],
)
def test_an_interrupted_run_ends_as_the_uninterrupted_one(
    keras, tmp_path, backup_first, save_freq, interrupt
):
    if keras.__name__ == "keras" and save_freq != "epoch":
        pytest.skip("Keras 3 restarts an interrupted epoch")
    whole = fit_with_backup(tmp_path / "whole", backup_first, save_freq)
    with pytest.raises(Interrupted):
        fit_with_backup(tmp_path / "broken", backup_first, save_freq, interrupt)
    resumed = fit_with_backup(tmp_path / "broken", backup_first, save_freq)
    assert sa.pruned_layers(resumed)[0].steps_begun == 80
    assert_same_weights(whole, resumed)
