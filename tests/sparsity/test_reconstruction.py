"""A model that is pruned without training is repaired."""

import numpy as np
import pytest

import tf_seqattn as sa
from tests import channel_models

layers = None  # Of the Keras under test, by the fixture `keras`.


def _model(keras):
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, padding="same")(x)
    y = layers.BatchNormalization()(y)
    y = layers.Conv2D(12, 3, strides=2, use_bias=False, name="second")(layers.ReLU()(y))
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, layers.Dense(4, name="head")(y))
    channel_models.randomize(model)
    return model


def _pruned(model):
    return sa.prune(
        model,
        sa.OneShotSchedule(0.5, prune_step=0),
        block_size="channels",
        importance=sa.Magnitude(),
        round_to=1,
    )


def _error(model, other, batch):
    difference = np.asarray(other(batch)) - np.asarray(model(batch))
    return float(np.mean(difference**2))


@pytest.mark.parametrize("with_data", [True, False])
def test_the_error_falls(keras, with_data):
    model = _model(keras)
    batch = channel_models.inputs(model, rows=64)
    channel_models.calibrate(model, batch)
    pruned = _pruned(model)
    plain = sa.strip_pruning(pruned)
    repaired = sa.reconstruct(pruned, [batch[:32], batch[32:]] if with_data else None)
    test = channel_models.inputs(model, rows=64, seed=1)
    before, after = _error(model, plain, test), _error(model, repaired, test)
    assert after < before * (0.5 if with_data else 0.9)
    smaller = sa.shrink(repaired)
    assert smaller.get_layer("second").filters == 6
    assert channel_models.difference(repaired, smaller, test) < 1e-5


def test_equal_channels_make_up_for_each_other(keras):
    """Half of the units are copies of the others: nothing is lost."""
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(8, activation="tanh"), layers.Dense(3)]
    )
    kernel, bias = model.layers[0].get_weights()
    kernel[:, 4:], bias[4:] = kernel[:, :4], bias[:4]
    model.layers[0].set_weights([kernel, bias])
    readers, bias = model.layers[1].get_weights()
    readers[:4] *= 10  # The copies have the smaller norms.
    model.layers[1].set_weights([readers, bias])
    batch = channel_models.inputs(model, rows=256)
    repaired = sa.reconstruct(_pruned(model), [batch])
    plain = sa.strip_pruning(_pruned(model))
    assert _error(model, repaired, batch) < 0.01 * _error(model, plain, batch)


def test_the_mean_of_a_removed_channel_goes_into_the_bias(keras):
    x = keras.Input((5,))
    y = layers.BatchNormalization()(layers.Dense(4)(x))
    y = layers.Add()([y, layers.Dropout(0.5)(y)])
    model = keras.Model(x, layers.Dense(3)(y))
    channel_models.randomize(model)
    pruned = _pruned(model)
    kernel, bias = model.layers[-1].get_weights()
    beta = model.layers[2].get_weights()[1]
    repaired = sa.reconstruct(pruned)
    new_kernel, new_bias = repaired.layers[-1].get_weights()
    gone = ~new_kernel.any(axis=1)
    assert gone.sum() == 2
    expected = bias + 2 * beta[gone] @ kernel[gone]
    np.testing.assert_allclose(new_bias, expected, rtol=1e-4)


def test_statistics_are_of_the_axis_that_a_normalization_has(keras):
    x = keras.Input((7, 5))
    y = layers.Dense(8, use_bias=False)(layers.Dense(16)(x))
    y = layers.BatchNormalization(axis=1, name="steps")(y)
    model = keras.Model(x, layers.Dense(3)(y))
    channel_models.randomize(model)
    batch = channel_models.inputs(model, rows=64)
    channel_models.calibrate(model, batch)
    pruned = _pruned(model)
    plain = sa.strip_pruning(pruned)
    repaired = sa.reconstruct(pruned, [batch])
    assert _error(model, repaired, batch) < 0.9 * _error(model, plain, batch)


def test_what_is_wrong_is_said(keras):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(8), layers.Dense(3)])
    with pytest.raises(ValueError, match="whose channels are pruned"):
        sa.reconstruct(model)
    with pytest.raises(ValueError, match="there must be batch normalizations"):
        sa.reconstruct(_pruned(model))
    with pytest.raises(ValueError, match="`data` is empty"):
        sa.reconstruct(_pruned(model), [])
