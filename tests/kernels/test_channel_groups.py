"""Which channels go together, and which must stay."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tests import channel_models
from tf_seqattn.kernels.channel_labels import Units, channels

layers = None  # Of the Keras under test, by the fixture `keras`.

_EXPECTED = {
    # 12 channels of the residual and its gate, the inner ones, those of the gate.
    "residual": [6, 10, 12],
    "unet": [5, 8, 8, 8, 12],
    "transformer": [4, 32],
    "attention": [4, 12, 16],
    "tagger": [6, 10, 12],
    "cell": [8, 10],
    "channels_first": [8],
    "shuffle": [8, 8],
    "grouped": [4],
    "nested": [8, 8, 9, 11],
    # The units of two new axes are those of the first, the heads of attention.
    "einsum": [4, 8],
    "moved": [6, 12],
}


@pytest.mark.parametrize("name", _EXPECTED)
def test_units_of_each_group(keras, name):
    groups = sa.channel_groups(channel_models.build(keras, name))
    assert sorted(group.units for group in groups) == _EXPECTED[name]


def test_what_stays_has_a_reason(keras):
    groups = sa.channel_groups(channel_models.build(keras, "transformer"))
    reasons = set(groups.frozen.values())
    assert any("statistics of LayerNormalization" in why for why in reasons)
    assert "an output of the model" in reasons
    assert "stays: an output of the model" in str(groups)


def test_a_layer_that_mixes_channels_freezes_what_it_reads(keras):
    class Mixing(keras.layers.Layer):
        def call(self, x):
            return x[:, ::-1]

    x = keras.Input((6,))
    y = Mixing(name="mixing")(layers.Dense(8, name="first")(x))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(4, name="second")(y)))
    groups = sa.channel_groups(model)
    assert [g.name for g in groups] == ["second"]
    assert "(mixing/" in groups.frozen["first"]
    assert "reads them with a step of -1" in groups.frozen["first"]


def test_a_custom_layer_states_its_rule(keras):
    class Doubling(keras.layers.Layer):
        def call(self, x):
            return 2 * x

        def channel_rule(self, call):
            return channels(call.shape, call.input.labels)

    x = keras.Input((6,))
    y = Doubling()(layers.Dense(8, name="first")(x))
    model = keras.Model(x, layers.Dense(2)(y))
    assert [g.name for g in sa.channel_groups(model)] == ["first"]
    channel_models.silence(model)
    smaller = sa.shrink(model)
    batch = channel_models.inputs(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5


def test_a_softmax_over_channels_freezes(keras):
    x = keras.Input((6,))
    y = layers.Dense(8, activation="softmax", name="first")(x)
    groups = sa.channel_groups(keras.Model(x, layers.Dense(2)(y)))
    assert not groups
    assert "softmax" in groups.frozen["first"]


def test_one_gate_for_all_channels_stays(keras):
    x = keras.Input((4, 6))
    y = layers.Dense(8, name="first")(x)
    gate = layers.Dense(1, name="gate")(y)
    y = layers.Multiply()([y, gate])
    groups = sa.channel_groups(keras.Model(x, layers.Dense(2)(y)))
    assert [(g.name, g.units) for g in groups] == [("first", 8)]
    assert "repeats it over channels" in groups.frozen["gate"]


def test_a_subclassed_model_that_was_never_called(keras):
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="Call it once on a batch"):
        sa.channel_groups(Subclassed(name="mine"))


def test_what_a_model_decides_by_its_inputs_cannot_be_followed(keras):
    class Deciding(keras.Model):
        def __init__(self):
            super().__init__(name="deciding")
            self.inner = keras.layers.Dense(8, name="inner")
            self.head = keras.layers.Dense(2, name="head")

        def call(self, x):
            y = self.inner(x)
            return self.head(y if float(x[0, 0]) > 0 else -y)

    model = Deciding()
    model.inner.build((None, 6))
    model.head.build((None, 8))
    model(np.ones((2, 6), "float32"))
    groups = sa.channel_groups(model)
    assert not groups
    assert "Deciding (deciding) cannot be followed" in groups.frozen["deciding"]


def test_heads_of_grouped_queries():
    import keras

    x = keras.Input((8, 16))
    y = keras.layers.Dense(16)(x)
    attended = keras.layers.GroupQueryAttention(8, 8, 4)(y, y)
    y = keras.layers.Flatten()(keras.layers.Add()([y, attended]))
    model = keras.Model(x, keras.layers.Dense(3)(y))
    assert sorted(g.units for g in sa.channel_groups(model)) == [4, 16]
    batch = channel_models.inputs(model)
    channel_models.silence(model)
    smaller = sa.shrink(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5
    config = next(
        la.get_config() for la in smaller.layers if "num_query_heads" in la.get_config()
    )
    assert (config["num_query_heads"], config["num_key_value_heads"]) == (4, 2)


def test_a_transposed_product_is_not_followed():
    """Positions come out of it, though there are as many of them as channels."""
    import tf_keras

    x = tf_keras.Input((8, 6))
    first, second = tf_keras.layers.Dense(8)(x), tf_keras.layers.Dense(8)(x)
    y = tf_keras.layers.Dense(3)(tf.matmul(first, second, False, True))
    groups = sa.channel_groups(tf_keras.Model(x, y))
    assert not groups
    assert any("matmul" in why for why in groups.frozen.values())


@pytest.mark.parametrize("kind", ["gru", "einsum", "cell"])
def test_biases_are_no_products(keras, kind):
    x = keras.Input((5, 6))
    y, expected = {
        "gru": lambda: (layers.GRU(4)(x), 5 * (6 + 4) * 12),
        "einsum": lambda: (
            layers.EinsumDense("abc,cde->abde", (5, 2, 4), bias_axes="de")(x),
            5 * 6 * 8,
        ),
        "cell": lambda: (layers.RNN(layers.GRUCell(4))(x), 5 * (6 + 4) * 12),
    }[kind]()
    assert sa.channel_groups(keras.Model(x, y)).multiply_adds == expected


def test_frozen_labels_stay_frozen():
    units = Units()
    a, b, c = (units.new(3, name) for name in "abc")
    units.join(a, b)
    units.freeze(b[1:2], "why")
    units.join(c, a)
    assert units.find(c).tolist() == units.find(a).tolist()
    assert units.find([a[1], b[1], c[1]]).tolist() == [0, 0, 0]
    assert np.all(units.find(a)[[0, 2]] > 0)
    assert units.frozen() == {"a": "why", "b": "why", "c": ""}
