"""A batch that a TFLite file computes sample by sample."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tests.inference.conftest import set_block_sparse
from tf_seqattn.inference import (
    flatbuffer,
    latency,
    litert,
    packed_model,
    sample_loop,
    tflite,
)
from tf_seqattn.inference.packed_model import pack_with_plans
from tf_seqattn.inference.sample_loop import by_samples, is_faster_by_samples

layers = keras.layers


def images():
    """A classifier of images with two outputs, one of integers."""
    inputs = keras.Input((6, 6, 16))
    x = layers.Conv2D(24, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(32, 1, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    scores = layers.Dense(5)(x)
    best = layers.Lambda(lambda s: tf.argmax(s, -1, output_type=tf.int32))(scores)
    return set_block_sparse(keras.Model(inputs, [scores, best]))


def perceptron():
    return set_block_sparse(
        keras.Sequential([keras.Input((256,)), layers.Dense(512), layers.Dense(64)])
    )


def wide_images(size):
    model = keras.Sequential([keras.Input((size, size, 256)), layers.Conv2D(512, 3)])
    return set_block_sparse(model, block_size=(32, 32), density=0.1)


@pytest.fixture
def looping(monkeypatch):
    """Every model is computed in a loop, whatever the cost model expects."""
    monkeypatch.setattr(tflite, "is_faster_by_samples", lambda plans, batch_size: True)


def test_every_sample_is_computed_by_itself():
    def compute(x, n):
        return {"sums": tf.reduce_sum(x) + tf.zeros((1,)), "scaled": x[:, ::-1] * 2.0}

    specs = [tf.TensorSpec((None, 3)), tf.TensorSpec((None,), tf.int32)]
    looped = by_samples(compute, specs)
    x = np.arange(12, dtype="float32").reshape(4, 3)
    scaled, sums = looped(tf.constant(x), tf.zeros((4,), tf.int32))
    np.testing.assert_array_equal(scaled, 2 * x[:, ::-1])
    np.testing.assert_array_equal(sums, x.sum(axis=1))


def test_sizes_of_a_sample_must_be_known():
    with pytest.raises(ValueError, match="sizes of a sample are unknown"):
        by_samples(tf.identity, [tf.TensorSpec((None, None, 3))])


@pytest.mark.parametrize("quantization", [None, "float16"])
def test_the_file_gives_the_outputs_of_keras(keras, looping, tmp_path, quantization):
    model = images()
    path = tmp_path / "model.tflite"
    report = sa.export_tflite(
        model, path, quantization=quantization, choose="always", batch_size=4
    )
    assert report.by_samples
    assert report.plans[0].layout == "packed"
    file = path.read_bytes()
    assert "WHILE" in flatbuffer.operator_names(file)
    for count in (1, 5):
        x = np.random.default_rng(count).normal(size=(count, 6, 6, 16))
        scores, best = sorted(litert.run(file, [x]), key=np.ndim, reverse=True)
        expected = [np.asarray(value) for value in model(x.astype("float32"))]
        tolerance = 2e-2 if quantization else 1e-4
        size = np.abs(expected[0]).max()
        np.testing.assert_allclose(scores, expected[0], atol=tolerance * size)
        np.testing.assert_array_equal(best, expected[1])


@pytest.mark.parametrize("whole, looped", [(2.0, 1.0), (1.0, 2.0)])
def test_by_choice_both_ways_are_timed(monkeypatch, tmp_path, whole, looped):
    timed = {}

    def time_files(files, num_threads):
        for name, (file, (rows,), _) in files.items():
            timed[name] = "WHILE" in ops(file)
            assert rows.shape == (4, 6, 6, 16) and num_threads == 2
        real = latency.time_files(files, num_threads)
        assert set(real) == {"whole", "looped"}
        return {"whole": np.full(3, whole), "looped": np.full(3, looped)}

    ops = flatbuffer.operator_names
    monkeypatch.setattr(tflite, "time_files", time_files)
    # A layer is packed, however long it takes here.
    monkeypatch.setattr(packed_model, "measure_speedup", lambda *_: 2.0)
    path = tmp_path / "model.tflite"
    report = sa.export_tflite(
        images(), path, choose="measure", batch_size=4, num_threads=2
    )
    assert timed == {"whole": False, "looped": True}
    assert report.by_samples == ("WHILE" in ops(path.read_bytes())) == (looped < whole)


def test_one_row_a_sample_is_not_timed_in_a_loop(monkeypatch, tmp_path):
    monkeypatch.setattr(tflite, "time_files", None)
    monkeypatch.setattr(packed_model, "measure_speedup", lambda *_: 2.0)
    report = sa.export_tflite(
        perceptron(), tmp_path / "model.tflite", choose="measure", batch_size=4
    )
    assert report.plans[0].layout == "packed" and not report.by_samples


@pytest.mark.parametrize("quantization", ["dynamic", "int8"])
def test_8_bits_are_computed_in_one_go(looping, tmp_path, quantization):
    x = np.random.default_rng(0).normal(size=(8, 256)).astype("float32")
    report = sa.export_tflite(
        perceptron(),
        tmp_path / "model.tflite",
        quantization=quantization,
        representative_dataset=[x],
        tolerance=1.0,
    )
    assert not report.by_samples


def test_samples_that_depend_on_one_another_stay_together(keras, looping, tmp_path):
    x = inputs = keras.Input((16,))
    x = layers.Dense(16)(x)
    x = layers.Lambda(lambda rows: rows - tf.reduce_mean(rows, 0, keepdims=True))(x)
    model = set_block_sparse(keras.Model(inputs, x))
    path = tmp_path / "model.tflite"
    report = sa.export_tflite(model, path, choose="always")
    assert not report.by_samples
    rows = np.random.default_rng(0).normal(size=(5, 16)).astype("float32")
    found = litert.run(path.read_bytes(), [rows])[0]
    np.testing.assert_allclose(found, np.asarray(model(rows)), atol=1e-4)


@pytest.mark.parametrize(
    "model, batch_size, expected",
    [
        (lambda: wide_images(56), 64, True),
        (lambda: wide_images(56), 1, False),
        # Too small to be worth a loop.
        (lambda: wide_images(5), 64, False),
    ],
)
def test_large_images_are_computed_by_samples(model, batch_size, expected):
    packing = (None, batch_size, "tflite", "model", 1, None)
    _, plans = pack_with_plans(model(), *packing)
    assert is_faster_by_samples(plans, batch_size) == expected


def test_weights_that_are_read_once_for_a_batch_keep_it_together(monkeypatch):
    monkeypatch.setattr(sample_loop, "_LEAST_SECONDS", 0.0)
    _, plans = pack_with_plans(perceptron(), None, 64, "tflite", "model", 1, None)
    assert not is_faster_by_samples(plans, 64)
