"""Recurrent networks as TFLite, for any batch size."""

import numpy as np
import pytest
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.inference import litert
from tf_seqattn.inference.unroll import unrolled

layers = keras.layers
CASES = {
    "LSTM": lambda: layers.LSTM(8),
    "GRU": lambda: layers.GRU(8, return_sequences=True),
    "SimpleRNN": lambda: layers.SimpleRNN(8),
    "stacked cells": lambda: layers.RNN([layers.LSTMCell(8), layers.GRUCell(4)]),
    "Bidirectional": lambda: layers.Bidirectional(
        layers.LSTM(8, return_sequences=True), backward_layer=None
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_exported_for_any_batch(name, tmp_path):
    model = keras.Sequential([keras.Input((6, 5)), CASES[name](), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype("float32")
    np.testing.assert_allclose(unrolled(model)(x), model(x), atol=1e-6)
    sa.export_tflite(model, tmp_path / "model.tflite")
    file = (tmp_path / "model.tflite").read_bytes()
    for batch in (x, x[:1]):
        (found,) = litert.run(file, [batch])
        np.testing.assert_allclose(found, model(batch), atol=1e-5)


def test_a_model_without_recurrent_layers_stays():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    assert unrolled(model) is model


def test_weights_of_other_layers_are_shared():
    model = keras.Sequential([keras.Input((6, 5)), layers.LSTM(4), layers.Dense(3)])
    assert unrolled(model).layers[1].kernel is model.layers[1].kernel


def test_an_unknown_number_of_steps_gets_an_error_with_the_remedy(tmp_path):
    model = keras.Sequential([keras.Input((None, 5)), layers.LSTM(8)])
    with pytest.raises(ValueError, match="known number of steps"):
        sa.export_tflite(
            model,
            tmp_path / "model.tflite",
            representative_dataset=[np.ones((2, 6, 5), "float32")],
        )
