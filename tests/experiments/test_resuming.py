"""What a training that was interrupted may go on with."""

import argparse
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.experiments.resuming import (
    finished_epochs,
    resumable_callbacks,
    unfinished_training,
)


def options(**changes):
    given = {"output": pathlib.Path("a"), "steps": 100, "table_size": (512,)}
    return argparse.Namespace(**{**given, **changes})


def break_off(folder, with_backup=True):
    with (
        pytest.raises(KeyboardInterrupt),
        unfinished_training(folder, options(), ("output",)),
    ):
        if with_backup:
            (folder / "backup").mkdir()
        raise KeyboardInterrupt


def enter(folder, **changes):
    with unfinished_training(folder, options(**changes), ("output",)):
        pass


def test_the_same_options_go_on(tmp_path):
    break_off(tmp_path)
    enter(tmp_path, output=pathlib.Path("b"))
    # Finished: what comes next is another training.
    enter(tmp_path, steps=7)


def test_other_options_are_told_and_nothing_is_lost(tmp_path):
    break_off(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="--steps: 100 then, 7 now") as error:
            enter(tmp_path, steps=7)
    assert "--table-size" not in str(error.value)
    with pytest.raises(ValueError, match="--table-size"):
        enter(tmp_path, table_size=(512, 3))
    enter(tmp_path)


def test_without_a_backup_there_is_nothing_to_go_on_from(tmp_path):
    folder = tmp_path / "made" / "for it"
    break_off(folder, with_backup=False)
    enter(folder, steps=7)


def test_a_damaged_note_is_named(tmp_path):
    break_off(tmp_path)
    (tmp_path / "unfinished.json").write_text("")
    with pytest.raises(ValueError, match="unfinished.json is damaged.*backup"):
        enter(tmp_path)


def test_the_backup_goes_with_the_end_of_the_training(tmp_path):
    break_off(tmp_path)
    enter(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_backup_no_epoch_is_finished(tmp_path):
    assert finished_epochs(tmp_path) == 0


def test_a_damaged_backup_is_named(tmp_path):
    chief = tmp_path / "backup" / "chief"
    checkpoint = tf.train.Checkpoint(value=tf.Variable(1.0))
    manager = tf.train.CheckpointManager(checkpoint, str(chief), max_to_keep=1)
    path = pathlib.Path(manager.save() + ".index")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="backup is damaged .*Delete it"):
        finished_epochs(tmp_path)


def test_a_model_of_keras_3_goes_on_after_its_epochs(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = np.ones((4, 2)), np.ones((4, 1))
    assert finished_epochs(tmp_path) == 0
    for epochs, trained in ((2, [0, 1]), (2, []), (3, [2])):
        callbacks = resumable_callbacks(model, tmp_path)
        history = model.fit(*data, epochs=epochs, callbacks=callbacks, verbose=0)
        assert history.epoch == trained
        assert finished_epochs(tmp_path) == epochs
    assert any((tmp_path / "logs").rglob("events*"))
    (newest,) = (tmp_path / "backup").glob("backup-*3")
    (newest / "latest.weights.h5").write_bytes(b"")
    assert finished_epochs(tmp_path) == 2
