"""The recipe, and trainings of a small network in the place of ResNet50."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.imagenet import __main__ as command
from tf_seqattn.imagenet import training
from tf_seqattn.imagenet.data import open_split
from tf_seqattn.imagenet.recipe import Recipe
from tf_seqattn.inference import litert
from tf_seqattn.keras_api import computing_in_float32

RECIPE = Recipe(epochs=4, batch_size=16)


def small_model(num_classes, size, weight_decay):
    decay = keras.regularizers.L2(weight_decay / 2)
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(16, 3, activation="relu", kernel_regularizer=decay),
            keras.layers.Conv2D(64, 3, activation="relu", kernel_regularizer=decay),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_classes, dtype="float32"),
        ]
    )


@pytest.fixture
def splits(monkeypatch):
    monkeypatch.setattr(training, "build_model", small_model)
    return [
        open_split("synthetic", split, images=64, size=16, classes=4)
        for split in ("train", "validation")
    ]


def train(splits, algorithm="seqattn", **options):
    strategy = options.pop("strategy", tf.distribute.get_strategy())
    return training.train(
        strategy, *splits, RECIPE, algorithm, 0.9, 4, 12, verbose=0, **options
    )


def test_the_rate_is_a_cosine_after_a_warm_up():
    recipe = Recipe(batch_size=1024)
    rate = recipe.learning_rate(steps_per_epoch=100)
    assert float(rate(0)) == 0.0
    assert float(rate(250)) == pytest.approx(0.2)
    assert float(rate(500)) == pytest.approx(0.4)
    assert float(rate(500 + 8500 // 2)) == pytest.approx(0.2)
    assert float(rate(9000)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"dense"}))
def test_schedules_end_with_the_same_sparse_phase(algorithm):
    schedule = Recipe().schedule(algorithm, 0.8, steps=1000)
    assert {schedule.phase(s) for s in range(850, 1000)} == {sa.Phase.SPARSE}
    assert schedule.sparsity(999) == pytest.approx(0.8)


def test_an_unknown_algorithm_is_named():
    with pytest.raises(ValueError, match="algorithm='lasso'"):
        Recipe().schedule("lasso", 0.8, steps=1000)


@pytest.mark.parametrize("algorithm", ["dense", "seqattn"])
def test_a_training_is_measured_and_stripped(algorithm, splits):
    model, result = train(splits, algorithm)
    kernel = model.layers[1].kernel.numpy()
    if algorithm == "dense":
        assert result["sparsity"] == 0 and result["layers_pruned"] == 0
    else:
        # 36 x 16 blocks of 4 x 4; the first layer has fewer than 100.
        assert (kernel == 0).mean() == pytest.approx(0.9, abs=0.01)
        assert result["layers_pruned"] == 1
    assert 0 <= result["top_1"] <= result["top_5"] <= 1


TWO_REPLICAS = """
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.imagenet import test_training as test
from tf_seqattn.experiments.strategies import make_strategy
from tf_seqattn.imagenet import training
from tf_seqattn.imagenet.data import open_split
training.build_model = test.small_model
splits = [
    open_split("synthetic", split, images=64, size=16, classes=4)
    for split in ("train", "validation")
]
strategy = make_strategy("mirrored")
assert strategy.num_replicas_in_sync == 2
model, result = test.train(splits, strategy=strategy)
kernel = model.layers[1].kernel.numpy()
assert abs((kernel == 0).mean() - 0.9) < 0.01
assert 0 < result["loss"] < 100
"""


@pytest.mark.slow
def test_replicas_train_one_network():
    # Logical devices are chosen before TensorFlow starts, so in a process of its own.
    done = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_training_that_was_broken_off_ends_where_it_would_have(
    splits, tmp_path, monkeypatch
):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    epochs = []

    class Record(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)

    fit = keras.Sequential.fit
    monkeypatch.setattr(
        keras.Sequential,
        "fit",
        lambda self, *a, callbacks, **k: fit(
            self, *a, callbacks=[*callbacks, Interrupt()], **k
        ),
    )
    with pytest.raises(KeyboardInterrupt):
        train(splits, folder=tmp_path)
    monkeypatch.setattr(
        keras.Sequential,
        "fit",
        lambda self, *a, callbacks, **k: fit(
            self, *a, callbacks=[*callbacks, Record()], **k
        ),
    )
    model, result = train(splits, folder=tmp_path)
    assert epochs == [2, 3]
    whole, expected = train(splits)
    assert result["loss"] == expected["loss"]
    for one, other in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (model.layers[1].kernel.numpy() == 0).mean() > 0.85


def test_a_batch_larger_than_the_data_is_refused(splits):
    with pytest.raises(ValueError, match="batch_size=128"):
        training.train(
            tf.distribute.get_strategy(), *splits, Recipe(batch_size=128), verbose=0
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_mixed_precision_trains_and_exports_in_float32(
    precision, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "build_model", small_model)
    given = f"--precision {precision} --epochs 4 --batch-size 16 --block-size 4"
    sizes = "--size 16 --images 64 --classes 4"
    result = command.main([*given.split(), *sizes.split(), "--output", str(tmp_path)])
    assert keras.mixed_precision.global_policy().name == "float32"
    folder = tmp_path / "seqattn_0.9_b4_0"
    model = keras.models.load_model(folder / "model.keras")
    assert model.layers[1].compute_dtype == precision.removeprefix("mixed_")
    kernel = model.layers[1].kernel.numpy()
    assert kernel.dtype == np.float32
    assert (kernel == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert result["layers_pruned"] == 1 and np.isfinite(result["loss"])
    # The file computes in float32, which the trained model rounds.
    image = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    (found,) = litert.run((folder / "model.tflite").read_bytes(), [image])
    np.testing.assert_allclose(found, model(image), atol=0.05)
    with computing_in_float32(model):
        exact = model(image)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_command_trains_resnet50_and_exports_it(tmp_path, capsys):
    arguments = "--epochs 1 --batch-size 16 --size 32 --images 32".split()
    result = command.main([*arguments, "--output", str(tmp_path)])
    folder = tmp_path / "seqattn_0.9_b16_0"
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["layers_pruned"] == 46
    assert (folder / "model.tflite").stat().st_size == result["file_bytes"]
    assert "69.92" in (tmp_path / "table.md").read_text()
    assert "seqattn, seed 0 | 16" in capsys.readouterr().out
