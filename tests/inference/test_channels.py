"""Constant and unread channels are removed, and the outputs stay the same."""

import numpy as np
import pytest
import tf_keras as keras

import tf_seqattn as sa
from tests.inference.conftest import set_block_sparse
from tf_seqattn.inference.dead_channels import without_dead_channels
from tf_seqattn.keras_api import output_shape

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
RNG = np.random.default_rng(5)


def erase(layer, channels_in=(), channels_out=()):
    """Sets the blocks of 8 of these numbers to zero."""
    kernel, *rest = layer.get_weights()
    for number in channels_in:
        kernel[..., 8 * number : 8 * number + 8, :] = 0
    for number in channels_out:
        kernel[..., 8 * number : 8 * number + 8] = 0
    layer.set_weights([kernel, *rest])


def assert_same(packed, model, shape, tolerance=3e-6):
    x = RNG.normal(size=(3, *shape)).astype("float32")
    expected = model(x).numpy()
    np.testing.assert_allclose(
        packed(x), expected, atol=tolerance * np.abs(expected).max(), rtol=0
    )


def dense(**options):
    first = layers.Dense(40, activation="sigmoid", name="first", **options)
    model = keras.Sequential(
        [
            keras.Input((24,)),
            first,
            layers.Dropout(0.5),
            layers.Dense(16, use_bias=False, name="second"),
        ]
    )
    set_block_sparse(model, density=1.0)
    return model


@pytest.mark.parametrize("use_bias", (True, False))
def test_a_constant_channel_is_folded_into_the_next_bias(use_bias):
    model = dense(use_bias=use_bias)
    erase(model.get_layer("first"), channels_out=(1, 4))
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").units == 24
    assert packed.get_layer("second").kernel.shape == (24, 16)
    assert_same(packed, model, (24,))


def test_an_unread_channel_is_not_computed():
    model = dense()
    erase(model.get_layer("second"), channels_in=(0, 2))
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").units == 24
    assert_same(packed, model, (24,))


def test_what_goes_in_one_layer_lets_more_go_before_it():
    model = keras.Sequential([keras.Input((24,))])
    for number in range(3):
        model.add(layers.Dense(24, activation="tanh", name=f"d{number}"))
    set_block_sparse(model, density=1.0)
    erase(model.get_layer("d2"), channels_in=(0,))
    # Only block 0 of the second layer reads block 1 of the first.
    kernel, bias = model.get_layer("d1").get_weights()
    kernel[8:16, 8:] = 0
    model.get_layer("d1").set_weights([kernel, bias])
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("d1").kernel.shape == (16, 16)
    assert_same(packed, model, (24,))


def convolutional(padding, activation):
    model = keras.Sequential(
        [
            keras.Input((9, 8, 8)),
            layers.Conv2D(32, 3, activation=activation, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, padding=padding, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8, name="third"),
        ]
    )
    set_block_sparse(model, density=1.0)
    erase(model.get_layer("first"), channels_out=(1,))
    return model


def test_convolutions_and_a_normalization_between_them():
    model = convolutional("valid", "relu")
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").filters == 24
    assert packed.get_layer("second").kernel.shape == (3, 3, 24, 16)
    assert_same(packed, model, (9, 8, 8))


def test_a_constant_that_is_not_zero_stays_beside_padding():
    model = convolutional("same", "relu")
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").filters == 32
    assert_same(packed, model, (9, 8, 8))


def test_a_constant_of_zero_goes_beside_padding():
    model = convolutional("same", "relu")
    kernel, _ = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel, -np.ones(32)])
    norm = model.get_layer("norm")
    gamma, _, mean, variance = norm.get_weights()
    norm.set_weights([gamma, np.zeros(32), np.zeros_like(mean), variance])
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").filters == 24
    assert_same(packed, model, (9, 8, 8))


def test_packed_layers_lose_channels_too():
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu", name="first"),
            layers.Dense(64, name="second"),
        ]
    )
    set_block_sparse(model, density=0.3)
    erase(model.get_layer("first"), channels_out=(2, 3))
    packed = sa.pack(model, choose="always")
    assert output_shape(packed.get_layer("first"))[-1] <= 112
    assert_same(packed, model, (64,))


def test_softmax_keeps_its_channels():
    model = dense()
    model.get_layer("first").activation = keras.activations.softmax
    erase(model.get_layer("first"), channels_out=(1,))
    assert without_dead_channels(model) is model


def residual(last):
    inputs = keras.Input((24,))
    x = layers.Dense(24, name="first")(inputs)
    x = layers.Add()([layers.Dense(24, name="second")(x), x])
    outputs = layers.Dense(5, name="last")(x) if last else x
    return set_block_sparse(keras.Model(inputs, outputs), density=1.0)


def test_a_residual_keeps_the_channels_of_the_output():
    model = residual(last=False)
    erase(model.get_layer("first"), channels_out=(1,))
    assert without_dead_channels(model) is model


def test_a_residual_loses_what_nothing_reads():
    model = residual(last=True)
    erase(model.get_layer("second"), channels_in=(1,))
    erase(model.get_layer("last"), channels_in=(1,))
    lines = []
    packed = sa.pack(model, block_size=(8, 8), print_fn=lines.append)
    assert packed.get_layer("second").kernel.shape == (16, 16)
    assert_same(packed, model, (24,))
    assert any("was 24 x 24" in line for line in lines)
    # One of the two is read: then both stay.
    kernel, bias = residual(last=True).get_layer("last").get_weights()
    model.get_layer("last").set_weights([kernel, bias])
    assert without_dead_channels(model) is model


def test_channels_go_by_whole_blocks_of_every_kernel():
    model = dense()
    # Blocks of 8 in the first layer, of 16 in the second: 0 to 15 and 16 to 31.
    erase(model.get_layer("second"), channels_in=(1, 2, 3))
    assert without_dead_channels(model, (16, 8)).get_layer("first").units == 24
    assert without_dead_channels(model, (8, 8)).get_layer("first").units == 16


def test_a_custom_layer_keeps_the_channels_inside():
    class Holder(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(16, name="inner")

        def call(self, inputs):
            return self.inner(inputs)

    inputs = keras.Input((24,))
    x = layers.Dense(16, name="first")(inputs)
    x = layers.Dense(16, name="second")(layers.Dense(16, name="between")(x))
    model = keras.Model(inputs, Holder()(x))
    set_block_sparse(model, density=1.0)
    erase(model.get_layer("between"), channels_in=(1,))
    kernel, bias = model.layers[-1].inner.get_weights()
    kernel[:8] = 0
    model.layers[-1].inner.set_weights([kernel, bias])
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").units == 8
    assert packed.get_layer("second").units == 16
    assert packed.layers[-1].inner.kernel.shape == (16, 16)
    assert_same(packed, model, (24,))


def test_an_output_keeps_its_channels():
    inputs = keras.Input((24,))
    x = layers.Dense(24, name="first")(inputs)
    model = keras.Model(inputs, [x, layers.Dense(8, name="second")(x)])
    set_block_sparse(model, density=1.0)
    erase(model.get_layer("first"), channels_out=(1,))
    assert without_dead_channels(model) is model


def test_a_layer_of_nothing_but_constants_keeps_one_block():
    model = dense()
    erase(model.get_layer("first"), channels_out=range(5))
    packed = sa.pack(model, block_size=(8, 8))
    assert output_shape(packed.get_layer("first"))[-1] == 8
    assert_same(packed, model, (24,))


def test_separable_convolutions_lose_channels_too():
    model = keras.Sequential([keras.Input((9, 8, 8))])
    model.add(layers.Conv2D(24, 3, name="first"))
    model.add(layers.SeparableConv2D(24, 3, name="separable"))
    model.add(layers.Conv2D(16, 1, name="last"))
    set_block_sparse(model, density=1.0)
    erase(model.get_layer("last"), channels_in=(2,))
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("separable").pointwise_kernel.shape[-1] == 16
    assert_same(packed, model, (9, 8, 8))


def test_operators_on_constant_channels():
    inputs = keras.Input((24,))
    x = layers.Dense(24, activation="sigmoid", name="first")(inputs)
    x = (x + 0.5 * x) * x - x
    model = keras.Model(inputs, layers.Dense(5, name="last")(x))
    set_block_sparse(model, density=1.0)
    erase(model.get_layer("first"), channels_out=(1,))
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").units == 16
    assert_same(packed, model, (24,))


def test_all_kinds_of_layers_around_dead_channels():
    inputs = keras.Input((6, 16))
    x = layers.Dense(32, activation="relu", name="first")(inputs)
    y = layers.Conv1D(32, 3, padding="same", use_bias=False, name="second")(x)
    x = layers.Add()([x, layers.BatchNormalization()(y)])
    x = layers.Concatenate()([x, layers.Dense(16, name="beside")(inputs)])
    x = layers.LSTM(16, return_sequences=True, name="recurrent")(x)
    model = keras.Model(inputs, layers.Dense(5, name="last")(x))
    set_block_sparse(model, density=1.0)
    erase(model.get_layer("second"), channels_in=(0, 2))
    # The first 32 rows are the sum's, the last 16 those of "beside".
    erase(model.get_layer("recurrent"), channels_in=(2, 5))
    packed = sa.pack(model, block_size=(8, 8))
    assert packed.get_layer("first").units == 24
    assert packed.get_layer("beside").units == 8
    assert packed.get_layer("recurrent").cell.kernel.shape == (32, 64)
    # Two recurrent sums differ in their order.
    assert_same(packed, model, (6, 16), tolerance=3e-5)
