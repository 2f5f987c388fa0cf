"""Packed models compute what the dense ones do, and work like any Keras model."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings

import tf_seqattn as sa
from tests.inference.conftest import block_sparse, set_block_sparse
from tf_seqattn.inference.packed_layers import (
    PackedConv,
    PackedDense,
    PackedLayer,
    PackedMultiHeadAttention,
    PackedSeparableConv,
)
from tf_seqattn.keras_api import sublayers

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
RNG = np.random.default_rng(0)
FORMS = ("tflite", "xla")


def packed_layers(model):
    return [m for m in sublayers(model) if isinstance(m, PackedLayer)]


def assert_same(packed, model, *inputs):
    inputs = inputs if len(inputs) > 1 else inputs[0]
    expected = np.asarray(model(inputs))
    largest = np.abs(expected).max()
    np.testing.assert_allclose(packed(inputs), expected, atol=2e-6 * largest)


# One layer each.

CASES = {
    "Dense": (lambda: layers.Dense(40), (24,)),
    "Dense of a sequence": (lambda: layers.Dense(40, activation="relu"), (5, 24)),
    "Dense, no bias": (lambda: layers.Dense(40, use_bias=False), (3, 2, 24)),
    "Dense, partial blocks": (lambda: layers.Dense(37), (29,)),
    "Conv1D": (lambda: layers.Conv1D(24, 3), (9, 16)),
    "Conv1D causal": (
        lambda: layers.Conv1D(24, 3, padding="causal", dilation_rate=2),
        (9, 16),
    ),
    "Conv2D": (lambda: layers.Conv2D(24, 3, activation="relu"), (7, 6, 16)),
    "Conv2D 1 x 1": (lambda: layers.Conv2D(24, 1), (7, 6, 20)),
    "Conv2D 1 x 1 strided": (lambda: layers.Conv2D(24, 1, strides=2), (7, 6, 16)),
    "Conv2D same": (lambda: layers.Conv2D(24, (3, 5), padding="same"), (7, 6, 16)),
    "Conv2D same strided": (
        lambda: layers.Conv2D(24, 3, padding="same", strides=(2, 3)),
        (8, 7, 16),
    ),
    "Conv2D dilated": (lambda: layers.Conv2D(24, 3, dilation_rate=2), (8, 7, 16)),
    "Conv2D groups": (
        lambda: layers.Conv2D(32, 3, groups=2, padding="same"),
        (7, 6, 32),
    ),
    "Conv3D": (lambda: layers.Conv3D(16, 2, padding="same"), (4, 5, 3, 8)),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(24, 3), (9, 16)),
    "SeparableConv1D strided": (
        lambda: layers.SeparableConv1D(24, 3, strides=2, padding="same"),
        (9, 16),
    ),
    "SeparableConv1D causal": (
        lambda: layers.SeparableConv1D(24, 3, padding="causal", dilation_rate=2),
        (9, 16),
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(24, (3, 2), activation="relu"),
        (7, 6, 16),
    ),
    "SeparableConv2D, no bias": (
        lambda: layers.SeparableConv2D(24, 3, use_bias=False),
        (7, 6, 16),
    ),
    "SeparableConv2D same strided": (
        lambda: layers.SeparableConv2D(24, 3, padding="same", strides=2),
        (8, 7, 16),
    ),
    "SeparableConv2D same dilated": (
        lambda: layers.SeparableConv2D(24, 3, padding="same", dilation_rate=(1, 2)),
        (8, 7, 16),
    ),
    "SeparableConv2D of several depths": (
        lambda: layers.SeparableConv2D(24, 3, depth_multiplier=3),
        (8, 7, 7),
    ),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 8), bias_axes="de"),
        (5, 16),
    ),
    "EinsumDense, two contracted": (
        lambda: layers.EinsumDense("abcd,cde->abe", (None, 24), bias_axes="e"),
        (5, 4, 8),
    ),
    "EinsumDense, axes in another order": (
        lambda: layers.EinsumDense("abc,cd->adb", (24, None), bias_axes=None),
        (5, 16),
    ),
    "EinsumDense, ellipsis": (
        lambda: layers.EinsumDense("...x,xy->...y", (24,), bias_axes="y"),
        (16,),
    ),
}


def one_layer(name):
    make, shape = CASES[name]
    model = keras.Sequential([keras.Input(shape), make()])
    return set_block_sparse(model), RNG.normal(size=(3, *shape)).astype("float32")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("runtime", FORMS)
@pytest.mark.exhaustive
def test_layer(name, runtime):
    if name == "SeparableConv1D causal" and keras.__name__ == "keras":
        pytest.skip("Keras 3 has none")
    # On a CPU, TensorFlow computes groups only if XLA compiles them.
    model, x = one_layer(name)
    packed = sa.pack(model, choose="always", runtime=runtime)
    assert len(packed_layers(packed)) == 1
    expected = tf.function(model, jit_compile="groups" in name)(x).numpy()
    largest = np.abs(expected).max()
    np.testing.assert_allclose(packed(x), expected, atol=2e-6 * largest)
    # The packed layer may know sizes that Keras leaves open.
    for size, expected in zip(packed.output_shape, model.output_shape, strict=True):
        assert expected in (None, size)


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.floats(0, 1),
    st.sampled_from(FORMS),
)
def test_dense_of_any_shape_and_mask(shape, block_size, density, runtime):
    rng = np.random.default_rng(1)
    model = keras.Sequential([keras.Input(shape[:1]), layers.Dense(shape[1])])
    bias = rng.normal(size=shape[1])
    model.set_weights([block_sparse(shape, block_size, density, rng), bias])
    packed = sa.pack(model, block_size=block_size, choose="always", runtime=runtime)
    assert_same(packed, model, rng.normal(size=(4, shape[0])).astype("float32"))


@pytest.mark.parametrize("runtime", FORMS)
def test_layer_whose_blocks_are_all_gone(runtime):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16)])
    model.set_weights([np.zeros((16, 16)), np.arange(16.0)])
    packed = sa.pack(model, choose="always", runtime=runtime)
    assert packed.count_params() == 16
    np.testing.assert_array_equal(packed(np.ones((2, 16))), [np.arange(16.0)] * 2)


def test_kernel_without_blocks_stays_dense():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16, name="full")])
    lines = []
    packed = sa.pack(model, choose="always", print_fn=lines.append)
    assert type(packed.layers[0]) is layers.Dense
    assert "full" in lines[-1] and lines[-1].endswith("no zeros")


# Models.


def attention_model():
    x = y = keras.Input((6, 32))
    y = layers.MultiHeadAttention(4, 8, name="attention")(y, x)
    y = layers.Dense(48, activation="gelu")(layers.LayerNormalization()(y))
    return keras.Model(x, layers.Dense(8)(layers.Flatten()(y)))


def nested_model():
    inner = keras.Sequential([keras.Input((32,)), layers.Dense(32), layers.ReLU()])
    shared = layers.Dense(32)
    x = keras.Input((32,))
    return keras.Model(x, shared(inner(shared(x))) + x)


def custom():
    """Holds layers in an attribute and in a list."""

    class Custom(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = layers.Dense(32)
            self.others = [layers.Dense(32), layers.Dense(32)]

        def build(self, input_shape):
            for layer in [self.first, *self.others]:
                layer.build(input_shape)
            super().build(input_shape)

        def call(self, inputs):
            for layer in [self.first, *self.others]:
                inputs = layer(inputs)
            return inputs

        def compute_output_shape(self, input_shape):
            return input_shape

    return Custom()


def subclassed():
    """Holds a custom layer and an attention."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.custom = custom()
            self.attention = layers.MultiHeadAttention(4, 8)

        def call(self, inputs):
            x = self.custom(inputs)
            return self.attention(x, x)

    return Subclassed()


@pytest.mark.parametrize("runtime", FORMS)
def test_attention(runtime):
    model = set_block_sparse(attention_model())
    packed = sa.pack(model, choose="always", runtime=runtime)
    assert isinstance(packed.get_layer("attention"), PackedMultiHeadAttention)
    assert len(packed_layers(packed)) == 6
    # No variable of the dense projections is left.
    assert packed.count_params() < 0.5 * model.count_params()
    assert_same(packed, model, RNG.normal(size=(3, 6, 32)).astype("float32"))


def test_nested_model_with_a_shared_layer():
    model = set_block_sparse(nested_model())
    packed = sa.pack(model, choose="always")
    assert len(packed_layers(packed)) == 2
    assert_same(packed, model, RNG.normal(size=(3, 32)).astype("float32"))


def test_custom_layer_in_a_functional_model():
    x = keras.Input((32,))
    model = set_block_sparse(keras.Model(x, custom()(x)))
    packed = sa.pack(model, choose="always")
    assert len(packed_layers(packed)) == 3 and not packed_layers(model)
    assert_same(packed, model, RNG.normal(size=(3, 32)).astype("float32"))


def test_subclassed_model_is_packed_in_place():
    model = subclassed()
    x = RNG.normal(size=(2, 5, 32)).astype("float32")
    model(x)
    set_block_sparse(model)
    expected = model(x).numpy()
    before = model.count_params()
    packed = sa.pack(model, choose="always")
    assert packed is model and len(packed_layers(packed)) == 7
    assert packed.count_params() < 0.5 * before
    np.testing.assert_allclose(packed(x), expected, atol=2e-6 * np.abs(expected).max())


def test_model_pruned_by_us_is_stripped():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    pruned = sa.prune(
        model,
        sa.OneShotSchedule(0.8, prune_step=0),
        (16, 16),
        pruning_policy=sa.PruningPolicy(),
    )
    packed = sa.pack(pruned, choose="always")
    assert packed.layers[0].pattern.block_size == (16, 16)
    assert packed.layers[0].pattern.num_kept == 3
    assert_same(packed, sa.strip_pruning(pruned), tf.ones((1, 64)))


@pytest.mark.parametrize("runtime", FORMS)
def test_separable_convolutions(separable, runtime, tmp_path):
    lines = []
    packed = sa.pack(separable, choose="always", runtime=runtime, print_fn=lines.append)
    first, second = packed_layers(packed)
    assert isinstance(first, PackedSeparableConv)
    assert isinstance(second, PackedSeparableConv)
    assert re.match(r"first +1 x 1 x 32 x 24 +8 x 8 .* packed ", lines[2])
    assert re.match(r"second +1 x 24 x 32 +8 x 8 .* packed ", lines[3])
    # The normalization is gone, and its effect is not.
    assert type(packed.get_layer("folded")) is layers.Activation
    x = RNG.normal(size=(3, 8, 8, 16)).astype("float32")
    assert_same(packed, separable, x)
    packed.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), packed(x))


def test_separable_convolution_that_tensorflow_lacks_is_told():
    if keras.__name__ == "tf_keras":
        pytest.skip("Keras 2 has none either")
    model = keras.Sequential([keras.Input((9, 16))])
    model.add(layers.SeparableConv1D(16, 3, strides=2, dilation_rate=2))
    lines = []
    packed = sa.pack(set_block_sparse(model), choose="always", print_fn=lines.append)
    assert not packed_layers(packed)
    assert lines[-1].endswith("its depthwise product is strided and dilated")


# What a Keras model can do.


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "folder"])
def test_saved_and_loaded(keras, name, tmp_path):
    if name == "folder" and keras.__name__ == "keras":
        pytest.skip("Keras 3 loads no SavedModel as a model")
    model = set_block_sparse(attention_model())
    packed = sa.pack(model, choose="always")
    packed.save(tmp_path / name)
    loaded = keras.models.load_model(tmp_path / name)
    x = RNG.normal(size=(3, 6, 32)).astype("float32")
    np.testing.assert_array_equal(loaded(x), packed(x))


def test_predict_and_jit_compile(mlp):
    x = RNG.normal(size=(70, 96)).astype("float32")
    expected = mlp.predict(x, verbose=0)
    for runtime in FORMS:
        packed = sa.pack(mlp, choose="always", runtime=runtime)
        packed.compile(jit_compile=True)
        np.testing.assert_allclose(
            packed.predict(x, verbose=0), expected, atol=2e-6 * np.abs(expected).max()
        )


def test_mixed_precision():
    policy = "mixed_float16"
    model = keras.Sequential([keras.Input((32,)), layers.Dense(32, dtype=policy)])
    packed = sa.pack(set_block_sparse(model), choose="always")
    x = RNG.normal(size=(3, 32)).astype("float32")
    assert packed(x).dtype == tf.float16
    assert packed.layers[0].kernels[0].dtype == tf.float32
    np.testing.assert_allclose(packed(x), model(x), atol=0.05)


def test_unknown_sizes_of_the_inputs():
    x = keras.Input((None, None, 16))
    y = layers.Conv2D(16, 3, padding="same", strides=2)(x)
    y = layers.SeparableConv2D(16, 3, padding="same")(y)
    model = set_block_sparse(keras.Model(x, layers.Dense(24)(y)))
    packed = sa.pack(model, choose="always")
    for size in (5, 8):
        assert_same(packed, model, RNG.normal(size=(2, size, 7, 16)).astype("float32"))


def test_the_gradient_reaches_the_inputs(mlp):
    packed = sa.pack(mlp, choose="always")
    x = tf.constant(RNG.normal(size=(4, 96)), tf.float32)
    gradients = []
    for model in (mlp, packed):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(model(x) ** 2)
        gradients.append(tape.gradient(y, x).numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-2)


# The choice.


def test_cost_model_packs_sparse_and_leaves_dense_kernels():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((1024,)), layers.Dense(1024), layers.Dense(512, name="denser")]
    )
    for layer, density in zip(model.layers, [0.1, 0.8], strict=True):
        kernel = block_sparse(layer.kernel.shape, (32, 32), density, rng)
        layer.set_weights([kernel, layer.bias])
    lines = []
    packed = sa.pack(model, batch_size=64, print_fn=lines.append)
    assert isinstance(packed.layers[0], PackedDense)
    assert type(packed.layers[1]) is layers.Dense
    assert lines[-1].endswith("dense is expected to be faster")


@pytest.mark.exhaustive
@pytest.mark.parametrize("runtime", FORMS)
@pytest.mark.parametrize("kind", ["Conv2D", "SeparableConv2D"])
def test_measured_choice_is_reported(runtime, kind):
    x = keras.Input((8, 8, 32))
    model = set_block_sparse(keras.Model(x, getattr(layers, kind)(32, 3)(x)))
    lines = []
    packed = sa.pack(
        model, batch_size=2, choose="measure", runtime=runtime, print_fn=lines.append
    )
    title, _, line = lines
    measured = float(line[title.index("measured") :].split()[0])
    # The report is rounded, so 1.00 may be on either side.
    assert (
        measured >= 1 if isinstance(packed.layers[1], PackedConv) else 0 < measured <= 1
    )


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"batch_size": 2.5}, "positive integer.*2.5"),
        ({"runtime": "onnx"}, r"'tflite', 'xla'.*runtime='onnx'"),
        ({"choose": "best"}, "choose='best'"),
        ({"block_size": (0, 4)}, "block_size"),
    ],
)
def test_bad_arguments(mlp, arguments, message):
    with pytest.raises(ValueError, match=message):
        sa.pack(mlp, **arguments)


def test_unbuilt_model():
    with pytest.raises(ValueError, match="not built.*model\\(batch\\)"):
        sa.pack(keras.Sequential([layers.Dense(3)]))


def test_model_still_wrapped_by_tfmot():
    from tensorflow_model_optimization.sparsity import keras as tfmot

    if keras.__name__ != "tf_keras":
        pytest.skip("tfmot needs Keras 2")
    model = keras.Sequential([keras.Input((32,)), layers.Dense(32)])
    with pytest.raises(ValueError, match="strip_pruning first"):
        sa.pack(tfmot.prune_low_magnitude(model))


def test_balanced_pruning_packs_without_padding():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((80,)), layers.Dense(64)])
    schedule = sa.OneShotSchedule(0.8, prune_step=0)
    policy = sa.PruningPolicy()
    pruned = sa.prune(model, schedule, (8, 8), pruning_policy=policy, balanced=True)
    pattern = sa.pack(pruned, choose="always").layers[0].pattern
    assert len(pattern.slices) == 1
    assert pattern.num_stored == pattern.num_kept == 2 * 8


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_batch_normalization_is_folded_where_it_alone_follows(options):
    x = keras.Input((6, 6, 16))
    y = layers.Conv2D(24, 3, use_bias="scale" in options)(x)
    y = layers.BatchNormalization(name="folded", **options)(y)
    z = layers.Conv2D(24, 1, name="used_twice")(layers.ReLU()(y))
    y = layers.BatchNormalization(name="kept")(z) + z
    model = set_block_sparse(keras.Model(x, layers.BatchNormalization(axis=1)(y)))
    packed = sa.pack(model, choose="always")
    assert type(packed.get_layer("folded")) is layers.Activation
    assert type(packed.get_layer("kept")) is layers.BatchNormalization
    assert_same(packed, model, RNG.normal(size=(3, 6, 6, 16)).astype("float32"))
