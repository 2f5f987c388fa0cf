"""What `adapt` taught a layer is still there in every model made of it."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa

layers = None  # Of the Keras under test, by the fixture `keras`.


def _normalization(keras):
    values = np.random.default_rng(0).normal(3, 2, (50, 6)).astype("float32")
    adapted = layers.Normalization()
    adapted.adapt(values)
    x = keras.Input((6,))
    return x, adapted(x), tf.constant(values[:5])


def _lookup(keras):
    words = tf.constant([["a"], ["b"], ["c"], ["b"]])
    adapted = layers.StringLookup()
    adapted.adapt(words)
    x = keras.Input((1,), dtype="string")
    return x, layers.Flatten()(layers.Embedding(8, 6)(adapted(x))), words


@pytest.mark.parametrize("make", [_normalization, _lookup])
def test_outputs_stay(keras, make):
    x, y, batch = make(keras)
    hidden = layers.Dense(32, activation="relu", name="hidden")(y)
    model = keras.Model(x, layers.Dense(3, name="head")(hidden))
    kernel, bias = model.get_layer("head").get_weights()
    kernel[:16] = 0
    model.get_layer("head").set_weights([kernel, bias])
    expected = np.asarray(model(batch))
    assert np.ptp(expected, axis=0).min() > 1e-3
    for made in (sa.shrink(model), sa.pack(model)):
        assert made.get_layer("hidden").units == 16
        np.testing.assert_allclose(made(batch), expected, atol=1e-5)
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(model, schedule, (2, 2), pruning_policy=sa.PruningPolicy())
    expected = np.asarray(pruned(batch))
    sparse = sa.strip_pruning(pruned)
    np.testing.assert_allclose(sparse(batch), expected, atol=1e-5)
