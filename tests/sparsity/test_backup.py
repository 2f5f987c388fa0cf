"""BackupAndRestore: training resumes after a kill at any moment."""

import json
import logging

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.keras_api import Callback

pytestmark = pytest.mark.usefixtures("keras")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 8)).astype("float32")
Y = (X @ RNG.normal(size=(8, 8))).astype("float32")
EPOCHS = 4


class Kill(Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def train(folder, kill_at=None, prune=True, delete=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    callbacks = [sa.BackupAndRestore(folder, delete_checkpoint=delete)]
    if prune:
        schedule = sa.SequentialAttentionSchedule(0.5, end_step=24, cycles=1)
        policy = sa.PruningPolicy()
        model = sa.prune(model, schedule, (2, 2), pruning_policy=policy)
        callbacks.append(sa.UpdatePruningStep())
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    if kill_at is not None:
        callbacks.append(Kill(kill_at))
    try:
        model.fit(data, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    except KeyboardInterrupt:
        assert kill_at is not None
    return model


def assert_same(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prune", [True, False])
def test_a_killed_training_ends_as_the_undisturbed_one(tmp_path, prune):
    undisturbed = train(tmp_path / "one", prune=prune)
    # Keras 2 leaves the empty folder.
    assert not list((tmp_path / "one").glob("*"))
    train(tmp_path / "two", kill_at=3, prune=prune)
    assert_same(train(tmp_path / "two", prune=prune), undisturbed)


def truncate(backup):
    weights = next(backup.glob("*.h5"))
    weights.write_bytes(weights.read_bytes()[:-100])


def change_a_byte(backup):
    weights = next(backup.glob("*.h5"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def empty_state(backup):
    (backup / "state.json").write_text("")


def state_of_something_else(backup):
    (backup / "state.json").write_text(json.dumps([1]))


def no_weights(backup):
    next(backup.glob("*.h5")).unlink()


DAMAGES = [truncate, change_a_byte, empty_state, state_of_something_else, no_weights]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_gives_way_to_the_one_before(tmp_path, damage, caplog, keras):
    if keras.__name__ == "tf_keras":
        pytest.skip("Keras 2 writes TensorFlow checkpoints")
    undisturbed = train(tmp_path / "one")
    folder = tmp_path / "two"
    train(folder, kill_at=3)
    assert sorted(p.name for p in folder.iterdir()) == ["backup-2", "backup-3"]
    damage(folder / "backup-3")
    # This is what a kill during writing leaves behind.
    (folder / "unfinished").mkdir()
    with caplog.at_level(logging.WARNING, "tf_seqattn"):
        resumed = train(folder)
    assert "backup-3 is skipped: " in caplog.text
    assert_same(resumed, undisturbed)


@pytest.mark.parametrize("name", ["*.index", "*.data-*"])
def test_a_damaged_checkpoint_of_keras_2_is_named(tmp_path, keras, name):
    if keras.__name__ == "keras":
        pytest.skip("Keras 3 writes other files")
    train(tmp_path / "backup", kill_at=2)
    (path,) = (tmp_path / "backup").rglob(name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ValueError, match="The backup in '.*backup' is damaged .*Delete"
    ):
        train(tmp_path / "backup")


def test_no_whole_backup_is_an_error(tmp_path, keras):
    if keras.__name__ == "tf_keras":
        pytest.skip("Keras 2 writes TensorFlow checkpoints")
    train(tmp_path, kill_at=2)
    for backup in tmp_path.iterdir():
        truncate(backup)
    with pytest.raises(ValueError, match="No backup.*Delete the folder to start"):
        train(tmp_path)
