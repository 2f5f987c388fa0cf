"""Every kind of layer computes with `W * A * mask`."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.keras_api import is_variable
from tf_seqattn.kernels.blocks import expand_blocks

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
SCHEDULE = sa.SequentialAttentionSchedule(0.5, end_step=100)


def custom():
    """Names its kernels: an attribute, one in a list, one of a sublayer."""

    class Custom(layers.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], 6))
            self.others = [
                self.add_weight(name=f"w{i}", shape=(6, 6)) for i in range(2)
            ]
            self.inner = layers.Dense(6)
            self.inner.build((None, 6))

        def get_prunable_weights(self):
            return [self.kernel, self.others[1], self.inner.kernel]

        def call(self, inputs):
            x = tf.matmul(inputs, self.kernel)
            return self.inner(tf.matmul(tf.matmul(x, self.others[0]), self.others[1]))

    return Custom()


def self_attention():
    """One input, as the other layers here."""

    class SelfAttention(layers.MultiHeadAttention):
        def __init__(self):
            super().__init__(num_heads=2, key_dim=3)

        def call(self, inputs, training=None):
            return super().call(inputs, inputs, training=training)

        def build(self, input_shape):
            if keras.__name__ == "tf_keras":
                self._build_from_signature(input_shape, input_shape)
                super().build(input_shape)
            else:
                super().build(input_shape, input_shape)

        def compute_output_shape(self, input_shape):
            return input_shape

        def compute_output_spec(self, inputs):
            return inputs

    return SelfAttention()


def mha():
    return layers.MultiHeadAttention(num_heads=2, key_dim=3)


# Name: (layer, shape of the input, number of kernels).
CASES = {
    "Dense": (lambda: layers.Dense(6, activation="relu"), (5,), 1),
    "Dense rank 3": (lambda: layers.Dense(6), (3, 5), 1),
    "Conv1D": (lambda: layers.Conv1D(6, 3, strides=2), (9, 4), 1),
    "Conv2D": (lambda: layers.Conv2D(6, 3, padding="same"), (5, 5, 4), 1),
    "Conv2D dilated": (lambda: layers.Conv2D(6, 2, dilation_rate=2), (6, 6, 4), 1),
    "Conv2D groups": (lambda: layers.Conv2D(6, 3, groups=2), (5, 5, 4), 1),
    "Conv3D": (lambda: layers.Conv3D(4, 2), (3, 3, 3, 2), 1),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(6, 3), (5, 4), 1),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(6, 3, strides=2), (4, 4, 3), 1),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(4, 2), (2, 2, 2, 3), 1),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(6, 3), (5, 5, 4), 1),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cd->abd", (None, 6)), (3, 5), 1),
    "EinsumDense heads": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (3, 5), 1
    ),
    "EinsumDense outputs first": (
        lambda: layers.EinsumDense("abc,dc->abd", (None, 6)), (3, 5), 1
    ),
    "MultiHeadAttention": (self_attention, (3, 6), 4),
    "LSTM": (lambda: layers.LSTM(4, return_sequences=True), (3, 5), 2),
    "GRU": (lambda: layers.GRU(4), (3, 5), 2),
    "SimpleRNN": (lambda: layers.SimpleRNN(4), (3, 5), 2),
    "RNN of cells": (
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)]), (3, 5), 4
    ),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(3)), (3, 5), 4),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(6)), (3, 5), 1),
    "custom": (custom, (5,), 3),
}  # fmt: skip


def random_state(wrapper):
    """Gives the wrapper random logits and masks."""
    rng = np.random.default_rng(1)
    for pruned in wrapper.pruned_kernels:
        pruned.logits.assign(rng.normal(size=pruned.grid.shape))
        mask = rng.random(pruned.grid.shape) > 0.4
        mask.flat[0] = False
        pruned.mask.assign(mask.astype("float32"))


def multiply_in(wrapper):
    """Puts `g * W * A * mask` into the wrapped layer by hand."""
    for pruned in wrapper.pruned_kernels:
        logits = pruned.logits.numpy().astype("float64")
        exp = np.exp(logits)
        attention = np.clip(exp / exp.mean(), 0.5, 2.0)
        mask = pruned.mask.numpy()
        values = (mask.mean() ** -0.5 * attention * mask).astype("float32")
        scale = expand_blocks(tf.constant(values), pruned.grid).numpy()
        pruned.kernel.variable.assign(pruned.kernel.variable.numpy() * scale)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.exhaustive
def test_layer(name):
    make, shape, kernels = CASES[name]
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    plain = make()
    expected = plain(x).numpy()
    wrapper = sa.PrunableLayer(plain, SCHEDULE, block_size=(2, 2))
    assert len(wrapper.pruned_kernels) == kernels
    np.testing.assert_allclose(wrapper(x), expected, rtol=1e-5, atol=1e-6)

    random_state(wrapper)
    wrapper.steps_are_counted = True
    with tf.GradientTape() as tape:
        output = wrapper(x)
        loss = tf.reduce_sum(tf.square(output))
    gradients = tape.gradient(loss, wrapper.trainable_weights)
    assert all(gradient is not None for gradient in gradients)
    # The variables are back in their places.
    assert all(is_variable(pruned.kernel.variable) for pruned in wrapper.pruned_kernels)
    for pruned in wrapper.pruned_kernels:
        gradient = tape_gradient(gradients, wrapper, pruned.kernel.variable)
        dead = expand_blocks(1 - pruned.mask, pruned.grid).numpy() > 0
        assert np.all(gradient[dead] == 0) and np.any(gradient != 0)

    multiply_in(wrapper)
    np.testing.assert_allclose(plain(x), output, rtol=1e-4, atol=1e-5)
    assert not np.allclose(output, expected, atol=1e-3)


def tape_gradient(gradients, wrapper, variable):
    for gradient, weight in zip(gradients, wrapper.trainable_weights, strict=True):
        if weight is variable:
            return tf.convert_to_tensor(gradient).numpy()
    raise AssertionError("the kernel is not trainable")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.exhaustive
def test_built_by_its_first_call_and_from_config(name):
    make, shape, kernels = CASES[name]
    if name in ("custom", "MultiHeadAttention"):
        pytest.skip("the class here has no configuration")
    wrapper = sa.PrunableLayer(make(), SCHEDULE, (2, 2), sa.Magnitude())
    x = np.ones((2, *shape), "float32")
    output = wrapper(x)
    assert len(wrapper.pruned_kernels) == kernels
    # EinsumDense itself leaves the other sizes open.
    assert wrapper.compute_output_shape(x.shape)[-1] == output.shape[-1]
    again = type(wrapper).from_config(wrapper.get_config())
    again(x)
    again.set_weights(wrapper.get_weights())
    np.testing.assert_allclose(again(x), output, rtol=1e-6)
    assert again.pruning_schedule == SCHEDULE and again.importance == sa.Magnitude()


def test_embedding():
    plain = layers.Embedding(10, 6, mask_zero=True)
    ids = np.array([[1, 2, 0], [9, 0, 0]])
    expected = plain(ids).numpy()
    wrapper = sa.PrunableLayer(plain, SCHEDULE, block_size=(2, 2))
    np.testing.assert_allclose(wrapper(ids), expected)
    assert wrapper(ids)._keras_mask.numpy().tolist() == (ids != 0).tolist()
    random_state(wrapper)
    output = wrapper(ids)
    multiply_in(wrapper)
    np.testing.assert_allclose(plain(ids), output, rtol=1e-5)


def test_masks_reach_the_layer_inside():
    ids = np.array([[1, 2, 0], [3, 0, 0]])
    embedding, plain = layers.Embedding(5, 4, mask_zero=True), layers.LSTM(3)
    expected = plain(embedding(ids)).numpy()
    wrapper = sa.PrunableLayer(plain, SCHEDULE, (2, 2))
    np.testing.assert_allclose(wrapper(embedding(ids)), expected, rtol=1e-6)


def test_cross_attention_in_a_functional_model():
    query, value = keras.Input((3, 6)), keras.Input((4, 6))
    attended, scores = mha()(query, value=value, return_attention_scores=True)
    model = keras.Model([query, value], [attended, scores])
    inputs = [np.random.rand(2, 3, 6), np.random.rand(2, 4, 6)]
    expected = model(inputs)
    pruned = sa.prune(model, SCHEDULE, (1, 1), pruning_policy=sa.PruningPolicy())
    assert len(sa.pruned_layers(pruned)[0].pruned_kernels) == 4
    for a, b in zip(pruned(inputs), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_attention_that_is_not_built_yet(tmp_path):
    inputs = keras.Input((3, 6))
    pruned = sa.prune(mha(), SCHEDULE, block_size=(1, 1))
    if keras.__name__ == "tf_keras":
        with pytest.raises(ValueError, match="is not built.*Call it once on a query"):
            type(pruned)(mha(), SCHEDULE, (1, 1)).build((None, 3, 6))
    model = keras.Model(inputs, pruned(inputs, value=inputs))
    assert len(pruned.pruned_kernels) == 4
    random_state(pruned)
    x = np.random.rand(2, 3, 6)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        loaded = keras.models.load_model(tmp_path / name)
        np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_recurrent_state_in_and_out():
    inputs, state = keras.Input((3, 4)), keras.Input((5,))
    outputs, last = layers.GRU(5, return_state=True)(inputs, initial_state=state)
    model = keras.Model([inputs, state], [outputs, last])
    values = [np.random.rand(2, 3, 4), np.random.rand(2, 5)]
    expected = model(values)
    pruned = sa.prune(model, SCHEDULE, (1, 1), pruning_policy=sa.PruningPolicy())
    assert sa.pruned_layers(pruned)
    for a, b in zip(pruned(values), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_precision(policy):
    keras.mixed_precision.set_global_policy(policy)
    model = keras.Sequential(
        [
            layers.Dense(16, input_shape=(16,)),
            layers.Reshape((4, 4)),
            layers.Conv1D(8, 2),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1, dtype="float32"),
        ]
    )
    schedule = sa.SequentialAttentionSchedule(0.5, 20, cycles=1)
    pruned = sa.prune(model, schedule, (2, 1), pruning_policy=AllButLast())
    pruned.compile("adam", "mse")
    x = np.random.rand(8, 16)
    pruned.fit(
        tf.data.Dataset.from_tensors((x, np.ones((8, 1)))).repeat(20),
        verbose=0,
        callbacks=[sa.UpdatePruningStep()],
    )
    assert len(sa.pruned_layers(pruned)) == 2
    compute = keras.mixed_precision.Policy(policy).compute_dtype
    for layer in sa.pruned_layers(pruned):
        for kernel in layer.pruned_kernels:
            assert kernel.mask.dtype == kernel.logits.dtype == tf.float32
            assert float(tf.reduce_mean(kernel.mask)) == 0.5
            assert layer.layer.kernel.dtype == (
                tf.float64 if policy == "float64" else tf.float32
            )
    assert pruned.layers[0](tf.cast(x, compute)).dtype == compute
    stripped = sa.strip_pruning(pruned)
    np.testing.assert_allclose(stripped(x), pruned(x), rtol=1e-2, atol=1e-3)
    assert np.mean(stripped.layers[0].kernel.numpy() == 0) == 0.5


class AllButLast(sa.PruningPolicy):
    def allow_pruning(self, layer):
        return getattr(layer, "units", 2) > 1
