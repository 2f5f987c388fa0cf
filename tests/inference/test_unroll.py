"""Recurrent networks as TFLite, for any batch size."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.inference import litert
from tf_seqattn.inference.unroll import unrolled

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
CASES = {
    "LSTM": lambda: layers.LSTM(8),
    "GRU": lambda: layers.GRU(8, return_sequences=True),
    "SimpleRNN": lambda: layers.SimpleRNN(8),
    "stacked cells": lambda: layers.RNN([layers.LSTMCell(8), layers.GRUCell(4)]),
    "Bidirectional": lambda: layers.Bidirectional(
        layers.LSTM(8, return_sequences=True), backward_layer=None
    ),
}


def sequences(*shape) -> np.ndarray:
    """Random sequences `(samples, steps, size)` in which some steps are zero."""
    rng = np.random.default_rng(0)
    present = rng.random((*shape[:2], 1)) < 0.6
    return (present * rng.normal(size=shape)).astype("float32")


def traced(model):
    """A function of the model that was traced with unrolled recurrent layers."""
    function = tf.function(
        lambda *inputs: model([*inputs] if inputs[1:] else inputs[0])
    )
    specs = [tf.TensorSpec(i.shape, i.dtype) for i in model.inputs]
    with unrolled(model):
        return function.get_concrete_function(*specs)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_exported_for_any_batch(name, tmp_path):
    model = keras.Sequential([keras.Input((6, 5)), CASES[name](), layers.Dense(3)])
    x = sequences(4, 6, 5)
    sa.export_tflite(model, tmp_path / "model.tflite")
    file = (tmp_path / "model.tflite").read_bytes()
    for batch in (x, x[:1]):
        (found,) = litert.run(file, [batch])
        np.testing.assert_allclose(found, model(batch), atol=1e-5)


MASKED = {
    "forwards": lambda **kwargs: layers.LSTM(4, **kwargs),
    "backwards": lambda **kwargs: layers.GRU(4, go_backwards=True, **kwargs),
    "both ways": lambda **kwargs: layers.Bidirectional(layers.SimpleRNN(4, **kwargs)),
}


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("name", MASKED)
@pytest.mark.exhaustive
def test_masked_steps_count_as_in_keras(name, return_sequences):
    recurrent = MASKED[name](return_sequences=return_sequences)
    model = keras.Sequential([keras.Input((6, 3)), layers.Masking(), recurrent])
    x = sequences(8, 6, 3)
    plain = keras.Sequential([keras.Input((6, 3)), recurrent])
    assert np.abs(model(x) - plain(x)).max() > 1e-2, "the mask matters"
    np.testing.assert_allclose(traced(model)(x), model(x), atol=1e-6)


def sequence_to_sequence():
    """A translator of two recurrent layers; the second starts from the last state."""
    source = keras.Input((6,), dtype="int32", name="source")
    target = keras.Input((4, 3), name="target")
    words = layers.Embedding(10, 5, mask_zero=True)(source)
    read, h, c = layers.LSTM(8, return_sequences=True, return_state=True)(words)
    written = layers.LSTM(8, return_sequences=True)(target, initial_state=[h, c])
    attended = layers.Attention()([written, read])
    outputs = layers.Dense(7, activation="softmax")(attended)
    return keras.Model([source, target], [outputs, h, c])


def test_a_sequence_to_sequence_model_with_attention(tmp_path):
    model = sequence_to_sequence()
    source = np.random.default_rng(0).integers(0, 10, (5, 6)).astype("int32")
    target = sequences(5, 4, 3)
    sa.export_tflite(model, tmp_path / "model.tflite", quantization=None)
    file = (tmp_path / "model.tflite").read_bytes()
    is_keras2 = keras.__name__ == "tf_keras"
    names = model.output_names if is_keras2 else [f"output_{i}" for i in range(3)]
    found = litert.run(
        file, [source, target], input_names=["source", "target"], output_names=names
    )
    expected = model([source, target])
    assert np.ptp(expected[1], axis=0).max() > 1e-2, "the inputs reach the outputs"
    for output, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(output, value, atol=1e-5)


def test_in_a_subclassed_model(tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.recurrent = layers.LSTM(8)
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return self.dense(self.recurrent(inputs))

    model = Net()
    x = sequences(4, 6, 5)
    expected = model(x).numpy()
    sa.export_tflite(model, tmp_path / "model.tflite")
    (found,) = litert.run((tmp_path / "model.tflite").read_bytes(), [x])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_is_left_as_it_was():
    def operations():
        function = tf.function(lambda x: model(x))
        graph = function.get_concrete_function(tf.TensorSpec((None, 6, 5))).graph
        return len(graph.get_operations())

    model = keras.Sequential([keras.Input((6, 5)), layers.LSTM(4)])
    before = operations()
    with unrolled(model):
        assert operations() > before
    assert operations() == before


@pytest.mark.parametrize("name", ["LSTM", "SimpleRNN"])
def test_an_unknown_number_of_steps_names_the_layer(name, tmp_path):
    layer = getattr(layers, name)(8, name="mine")
    model = keras.Sequential([keras.Input((None, 5)), layer])
    with pytest.raises(ValueError, match="'mine'.*known number of steps"):
        sa.export_tflite(
            model,
            tmp_path / "model.tflite",
            representative_dataset=[np.ones((2, 6, 5), "float32")],
        )
    assert not list(tmp_path.iterdir())


def test_a_loop_of_the_user_is_named(tmp_path):
    class Map(layers.Layer):
        def call(self, inputs):
            return tf.map_fn(lambda row: row * 2.0, inputs)

    model = keras.Sequential([keras.Input((6, 5)), Map(name="mapped")])
    with pytest.raises(ValueError, match="layer mapped.*TensorListReserve.*tf.map_fn"):
        sa.export_tflite(model, tmp_path / "model.tflite")
