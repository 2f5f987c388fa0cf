"""The report lists pruned kernels of classes that cannot be packed, each once."""

import numpy as np
import pytest
import tf_keras as keras

import tf_seqattn as sa
from tests.inference.conftest import block_sparse, set_block_sparse
from tf_seqattn.inference.packed_model import pack_with_plans
from tf_seqattn.inference.unpacked import unpacked_plans

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")


def reasons(model) -> dict[str, str]:
    """The reason for each kernel in the report, by name; names must be unique."""
    _, plans = pack_with_plans(model, None, 64, "tflite", "always")
    found = [(plan.name, plan.reason) for plan in plans]
    assert len(dict(found)) == len(found)
    return dict(found)


def tagger():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(32, 16, name="words"),
            layers.Bidirectional(layers.LSTM(16, return_sequences=True), name="both"),
            layers.GRU(16, return_sequences=True, name="gru"),
            layers.TimeDistributed(layers.Dense(16), name="each"),
            layers.Dense(16, name="dense"),
        ]
    )


EXPECTED = {
    "words/embeddings": "Embedding is not packed",
    "both/forward/kernel": "Bidirectional is not packed",
    "both/forward/recurrent_kernel": "Bidirectional is not packed",
    "both/backward/kernel": "Bidirectional is not packed",
    "both/backward/recurrent_kernel": "Bidirectional is not packed",
    "gru/kernel": "GRU is not packed",
    "gru/recurrent_kernel": "GRU is not packed",
    "each/kernel": "TimeDistributed is not packed",
    "dense": "",
}


def test_layers_of_a_graph():
    assert reasons(set_block_sparse(tagger())) == EXPECTED


def test_layers_of_a_subclassed_model():
    inner = tagger()

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.held = list(inner.layers)

        def call(self, inputs):
            for layer in self.held:
                inputs = layer(inputs)
            return inputs

    model = Outer()
    model(np.zeros((2, 6), "int32"))
    assert reasons(set_block_sparse(model)) == EXPECTED


def test_kernels_without_zeros_are_left_out():
    assert set(reasons(tagger())) == {"dense"}


def test_a_transposed_convolution_in_the_printed_report():
    layer = layers.Conv2DTranspose(16, 2, use_bias=False, name="up")
    model = keras.Sequential([keras.Input((4, 4, 32)), layer])
    matrix = block_sparse((2 * 2 * 32, 16), (16, 8), 0.5, np.random.default_rng(0))
    # The kernel is stored as (spatial, outputs, inputs).
    layer.set_weights([matrix.reshape(2, 2, 32, 16).swapaxes(2, 3)])
    lines = []
    sa.pack(model, print_fn=lines.append)
    assert lines[-1].split()[:6] == ["up/kernel", "2", "x", "2", "x", "16"]
    assert lines[-1].endswith("Conv2DTranspose is not packed")


def test_what_a_custom_layer_declares():
    class Custom(layers.Layer):
        """Holds a kernel of its own and a layer."""

        def build(self, input_shape):
            self.kernel = self.add_weight(name="kernel", shape=(32, 32))
            self.dense = layers.Dense(32, name="inner")
            self.dense.build(input_shape)
            super().build(input_shape)

        def call(self, inputs):
            return self.dense(inputs @ self.kernel)

        def compute_output_shape(self, input_shape):
            return input_shape

        def get_prunable_weights(self):
            return [self.kernel, self.dense.kernel]

    x = keras.Input((32,))
    model = set_block_sparse(keras.Model(x, Custom(name="custom")(x)))
    assert reasons(model) == {"custom/kernel": "Custom is not packed", "inner": ""}


def test_a_layer_that_is_not_built_has_no_plans():
    assert not unpacked_plans(layers.Embedding(8, 8))
