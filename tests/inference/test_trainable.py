"""Training on kept blocks equals training with a mask, with slots for them alone."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tests.inference import test_packed_model
from tests.inference.conftest import block_sparse, set_block_sparse
from tests.inference.test_packed_model import CASES, RNG, packed_layers
from tf_seqattn.inference.trainable_product import BlockPositions, trainable_product

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")


@pytest.mark.parametrize("max_blocks", [None, 2])
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_the_product_and_its_gradients_are_those_of_the_matrix(max_blocks, density):
    rng = np.random.default_rng(1)
    matrix = block_sparse((20, 18), (5, 3), density, rng)
    grid = matrix.reshape(4, 5, 6, 3).swapaxes(1, 2)
    columns, rows = np.nonzero(grid.any((2, 3)).T)
    positions = BlockPositions(tuple(rows), tuple(columns), (4, 6), max_blocks)
    blocks, x = (
        tf.constant(grid[rows, columns]),
        tf.constant(rng.normal(size=(7, 20)).astype("float32")),
    )
    weights = rng.normal(size=(7, 18)).astype("float32")
    dense = tf.constant(matrix)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, blocks, dense])
        outputs = trainable_product(
            tf.reshape(tf.transpose(x), (4, 5, -1)), blocks, positions
        )
        outputs = tf.transpose(tf.reshape(outputs, (18, -1)))
        expected = x @ dense
        loss, expected_loss = (
            tf.reduce_sum(weights * value**2) for value in (outputs, expected)
        )
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    found = tape.gradient(loss, [x, blocks])
    wanted = tape.gradient(expected_loss, [x, dense])
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-4)
    wanted = wanted[1].numpy().reshape(4, 5, 6, 3).swapaxes(1, 2)[rows, columns]
    np.testing.assert_allclose(found[1], wanted, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_layer(name, monkeypatch):
    if name == "SeparableConv1D causal" and keras.__name__ == "keras":
        pytest.skip("Keras 3 has none")
    make, shape = CASES[name]
    monkeypatch.setattr(test_packed_model, "layers", layers)
    model = set_block_sparse(keras.Sequential([keras.Input(shape), make()]))
    x = tf.constant(RNG.normal(size=(3, *shape)).astype("float32"))
    packed = sa.pack(model, choose="always", trainable=True)
    (trained,) = packed_layers(packed)
    assert trained.form == "training"

    def gradients_of(model, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x)
            loss = tf.reduce_sum(tf.sin(outputs))
        return outputs, tape.gradient(loss, x)

    # On a CPU, TensorFlow computes groups only if XLA compiles them.
    run = tf.function(lambda x: gradients_of(model, x), jit_compile="groups" in name)
    for found, expected in zip(gradients_of(packed, x), run(x), strict=True):
        np.testing.assert_allclose(
            found, expected, atol=5e-6 * np.abs(expected).max(), rtol=1e-4
        )


def small_network(regularizer=None):
    """A convolution, a batch normalization, attention and dense layers."""
    x = keras.Input((6, 5, 16))
    y = layers.Conv2D(16, 3, padding="same", kernel_regularizer=regularizer)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Reshape((30, 16))(y)
    y = layers.MultiHeadAttention(2, 8)(y, y)
    y = layers.Dense(32, activation="tanh")(layers.GlobalAveragePooling1D()(y))
    model = set_block_sparse(keras.Model(x, layers.Dense(8)(y)))
    for weight in model.trainable_weights:
        # Large weights would saturate the attention, and rounding would grow.
        if len(weight.shape) > 1:
            weight.assign(weight * 0.2)
    return model


def masked_training(model, data, optimizer, steps: int):
    """Trains with a mask of the zeros, which the packed model must equal."""
    masks = [
        tf.cast(w != 0, tf.float32) if len(w.shape) > 1 else tf.ones(w.shape)
        for w in map(tf.convert_to_tensor, model.trainable_weights)
    ]
    for x, y in data[:steps]:
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(model(x, training=True) - y))
            loss = error + sum(model.losses)
        gradients = tape.gradient(loss, model.trainable_weights)
        gradients = [g * m for g, m in zip(gradients, masks, strict=True)]
        optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))


def batches(number: int):
    return [
        (
            RNG.normal(size=(8, 6, 5, 16)).astype("float32"),
            RNG.normal(size=(8, 8)).astype("float32"),
        )
        for _ in range(number)
    ]


def shifted(x):
    """A custom activation, not one of Keras's own."""
    return tf.nn.relu(x) + 0.1 * x


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "softmax", shifted, "linear"])
def test_packed_layers_in_a_row(activation, use_bias):
    def dense(units):
        return layers.Dense(
            units, activation, use_bias, bias_initializer="random_normal"
        )

    # Blocks exceed both matrices, and a layer is read twice.
    inputs = keras.Input((18,))
    hidden = dense(22)(inputs)
    outputs = layers.Concatenate()([dense(18)(hidden), hidden, dense(7)(hidden)])
    model = set_block_sparse(keras.Model(inputs, outputs))
    packed = sa.pack(model, choose="always", trainable=True)
    assert len(packed_layers(packed)) >= 2
    x = RNG.normal(size=(5, 18)).astype("float32")
    weights = RNG.normal(size=(5, 47)).astype("float32")

    def gradients_of(model, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x)
            loss = tf.reduce_sum(weights * outputs)
        biases = [w for w in model.trainable_weights if len(w.shape) == 1]
        biases = [b if isinstance(b, tf.Variable) else b.value for b in biases]
        return outputs, *tape.gradient(loss, [x, *biases])

    found, expected = (gradients_of(m, tf.constant(x)) for m in (packed, model))
    assert len(found) == (5 if use_bias else 2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize(("activation", "shared"), [("relu", 2), ("softmax", 0)])
def test_packed_layers_in_a_row_hand_on_what_is_transposed(activation, shared):
    def transpositions(number):
        stack = [layers.Dense(32, activation) for _ in range(number)]
        model = set_block_sparse(keras.Sequential([keras.Input((32,)), *stack]))
        packed = sa.pack(model, choose="always", trainable=True)
        assert len(packed_layers(packed)) == number
        traced = tf.function(packed).get_concrete_function(tf.TensorSpec((None, 32)))
        return sum(op.type == "Transpose" for op in traced.graph.get_operations())

    # An activation of whole rows is computed after they are transposed back.
    assert transpositions(3) == 3 * transpositions(1) - shared


def test_training_equals_masked_training(tmp_path):
    model = small_network(keras.regularizers.L2(0.01))
    packed = sa.pack(model, choose="always", trainable=True)
    assert len(packed_layers(packed)) == 7
    assert any(type(x) is layers.BatchNormalization for x in packed.layers)
    data = batches(6)
    packed.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    for x, y in data:
        packed.train_on_batch(x, y)
    masked_training(model, data, keras.optimizers.SGD(0.05, momentum=0.9), 6)
    x = data[0][0]
    expected = model(x).numpy()
    np.testing.assert_allclose(packed(x), expected, atol=2e-5 * np.abs(expected).max())

    # Slots exist for the kept blocks alone.
    slots = packed.optimizer.variables
    slots = slots() if callable(slots) else slots
    kept = sum(int(np.prod(w.shape)) for w in packed.trainable_weights)
    assert sum(int(np.prod(s.shape)) for s in slots) <= kept + 3
    assert kept < 0.6 * sum(int(np.prod(w.shape)) for w in model.trainable_weights)

    # It is saved, loaded and trained on, and packed for inference.
    packed.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for one in (packed, loaded):
        one.train_on_batch(*data[1])
    np.testing.assert_allclose(loaded(x), packed(x), atol=1e-5)
    deployed = sa.pack(packed)
    np.testing.assert_allclose(deployed(x), packed(x), atol=1e-5)
    sa.export_tflite(packed, tmp_path / "m.tflite")


def test_what_cannot_train_equally_stays_dense():
    options = {
        "kernel_constraint": keras.constraints.MaxNorm(1.0),
        "kernel_regularizer": keras.regularizers.OrthogonalRegularizer(),
    }
    for name, value in options.items():
        model = keras.Sequential(
            [keras.Input((32,)), layers.Dense(32, **{name: value})]
        )
        lines = []
        packed = sa.pack(
            set_block_sparse(model),
            choose="always",
            trainable=True,
            print_fn=lines.append,
        )
        assert not packed_layers(packed)
        assert "constraint" in lines[-1] or "no sum over entries" in lines[-1]


def test_layer_without_blocks_trains_its_bias():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16)])
    model.set_weights([np.zeros((16, 16)), np.zeros(16)])
    packed = sa.pack(model, choose="always", trainable=True)
    packed.compile("sgd", "mse")
    packed.train_on_batch(np.ones((4, 16)), np.ones((4, 16)))
    (bias,) = packed.get_weights()
    assert (bias > 0).all()


def test_the_choice_can_be_measured():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    lines = []
    sa.pack(
        set_block_sparse(model),
        choose="measure",
        trainable=True,
        print_fn=lines.append,
    )
    assert lines[-1].count(" x ") == 4, "predicted and measured are in the report"
