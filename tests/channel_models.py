"""Small models with coupled channels, and what removes channels of them by hand."""

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import is_keras3, stored
from tf_seqattn.kernels.channel_groups import channel_groups
from tf_seqattn.sparsity import shrinking


def _residual(keras):
    layers = keras.layers
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 3, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization()(y)
    z = layers.Conv2D(10, 3, padding="same", activation="sigmoid")(y)
    z = layers.Conv2D(12, 3, padding="same")(z)
    y = layers.Add()([y, z])
    gate = layers.GlobalAveragePooling2D()(y)
    gate = layers.Dense(6, activation="relu")(gate)
    gate = layers.Dense(12, activation="sigmoid")(gate)
    y = layers.Multiply()([y, layers.Reshape((1, 1, 12))(gate)])
    y = layers.DepthwiseConv2D(3, depth_multiplier=2)(y)
    return x, layers.Dense(3)(layers.Flatten()(y))


def _unet(keras):
    layers = keras.layers
    x = keras.Input((8, 8, 3))
    wide = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(12, 3, padding="same")(layers.MaxPooling2D()(wide))
    y = layers.Conv2DTranspose(8, 2, strides=2)(y)
    y = layers.Concatenate()(
        [wide, layers.UpSampling2D()(layers.AveragePooling2D(2)(y))]
    )
    y = layers.Conv2D(10, 3, padding="same", activation="tanh")(y)
    y = layers.GroupNormalization(groups=5)(y)
    y = layers.SeparableConv2D(8, 3)(layers.ZeroPadding2D()(y))
    y = layers.PReLU(alpha_initializer="ones", shared_axes=[1, 2])(y)
    return x, layers.Conv2D(2, 1)(y)


def _transformer(keras):
    layers = keras.layers
    x = keras.Input((8, 16))
    y = layers.Dense(16)(x)
    z = layers.LayerNormalization()(y)
    y = layers.Add()([y, layers.MultiHeadAttention(4, 8)(z, z)])
    z = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(y))
    y = layers.Add()([y, layers.Dense(16)(z)])
    return x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y))


def _attention(keras):
    layers = keras.layers
    x = keras.Input((8, 16))
    query, value = layers.Dense(16)(x), layers.Dense(12)(x)
    y = layers.MultiHeadAttention(4, 8)(query, value)
    return x, layers.Dense(3)(y)


def _tagger(keras):
    layers = keras.layers
    x = keras.Input((9,), dtype="int32")
    y = layers.Embedding(20, 12, mask_zero=True)(x)
    y = layers.Bidirectional(layers.LSTM(10, return_sequences=True))(y)
    y = layers.GRU(6, return_sequences=True)(y)
    return x, layers.Dense(3)(y)


def _cell(keras):
    layers = keras.layers
    x = keras.Input((6, 5))
    y = layers.Dense(8)(x)
    y = layers.RNN(layers.LSTMCell(10), return_sequences=True)(y)
    return x, layers.Dense(3)(y)


def _channels_first(keras):
    layers = keras.layers
    x = keras.Input((6, 5))
    y = layers.Permute((2, 1))(layers.Dense(8, activation="relu")(x))
    y = layers.Flatten(data_format="channels_first")(y)
    return x, layers.Dense(3)(y)


def _shuffle(keras):
    layers = keras.layers
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 1)(x)
    y = layers.Permute((1, 2, 4, 3))(layers.Reshape((8, 8, 2, 8))(y))
    y = layers.Reshape((8, 8, 16))(y)
    y = layers.Conv2D(8, 3)(layers.DepthwiseConv2D(3)(y))
    return x, layers.Dense(3)(layers.Flatten()(y))


def _grouped(keras):
    layers = keras.layers
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 1)(x)
    y = layers.Conv2D(8, 3, groups=4, activation="relu")(y)
    return x, layers.Dense(3)(layers.Flatten()(y))


def _nested(keras):
    layers = keras.layers
    x, inside = keras.Input((10,)), keras.Input((8,))
    y = layers.Dense(9, activation="relu")(inside)
    block = keras.Model(inside, layers.Dense(8, activation="relu")(y))
    chain = keras.Sequential(
        [keras.Input((8,)), layers.Dense(11, activation="relu"), layers.Dense(8)]
    )
    y = layers.Dense(8)(x)
    y = layers.Add()([y, block(y)])
    y = chain(layers.Add()([y, block(y)]))
    shared = layers.Dense(8)
    return x, layers.Dense(3)(shared(shared(y)))


def _einsum(keras):
    layers = keras.layers
    x = keras.Input((5, 10))
    y = layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d")(x)
    y = layers.EinsumDense("abc,cde->abde", (None, 4, 6))(y)
    return x, layers.EinsumDense("abde,def->abf", (None, 8))(y)


def _operations(keras):
    layers = keras.layers
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(16, 3, padding="same")(x)
    if is_keras3(y):
        ops = keras.ops
        concat, mean, relu, sigmoid = ops.concatenate, ops.mean, ops.relu, ops.sigmoid
        split, reshape, transpose = ops.split, ops.reshape, ops.transpose
    else:
        concat, mean, relu, sigmoid = tf.concat, tf.reduce_mean, tf.nn.relu, tf.sigmoid
        split, reshape, transpose = tf.split, tf.reshape, tf.transpose
    first, second = split(y, 2, axis=-1)
    y = concat([first * 2.0, relu(second)], axis=-1)
    y = y * sigmoid(mean(y, axis=(1, 2), keepdims=True))
    y = transpose(reshape(y, (-1, 8, 8, 2, 8)), (0, 1, 2, 4, 3))
    y = reshape(y, (-1, 8, 8, 16))[..., 4:] + 1.0
    y = layers.Conv2D(6, 3)(y[:, 1:5])
    return x, layers.Dense(3)(layers.Flatten()(y))


def _moved(keras):
    layers = keras.layers
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(12, 3, padding="same")(x)
    if is_keras3(y):
        ops = keras.ops
        y = ops.where(y > 0, y, 0.1 * y)
        y = ops.swapaxes(ops.flip(ops.roll(y, 1, axis=1), axis=2), 1, 2)
    else:
        y = tf.where(y > 0, y, 0.1 * y)
        y = tf.reverse(tf.roll(y, 1, 1), [2])
    y = layers.Conv2D(6, 3)(y)
    return x, layers.Dense(3)(layers.Flatten()(y))


MODELS = {
    "residual": _residual,
    "unet": _unet,
    "transformer": _transformer,
    "attention": _attention,
    "tagger": _tagger,
    "cell": _cell,
    "channels_first": _channels_first,
    "shuffle": _shuffle,
    "grouped": _grouped,
    "nested": _nested,
    "einsum": _einsum,
    "operations": _operations,
    "moved": _moved,
}


def build(keras, name):
    """A model of `MODELS` whose normalizations and biases are not trivial."""
    model = keras.Model(*MODELS[name](keras))
    randomize(model)
    return model


def randomize(model, seed=0):
    """Random vectors of weights, so that a wrong removal shows."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if len(list(layer._flatten_layers())) == 1 and layer.weights:
            low = 0.5 if "Normalization" in type(layer).__name__ else -0.5
            values = [
                rng.uniform(low, low + 1.0, w.shape) if len(w.shape) == 1 else w
                for w in layer.get_weights()
            ]
            layer.set_weights(values)


def inputs(model, rows=4, seed=0):
    """Random inputs for a model with one input."""
    rng = np.random.default_rng(seed)
    (given,) = model.inputs
    shape = (rows, *(size or 7 for size in given.shape[1:]))
    if "int" in str(given.dtype):
        return rng.integers(0, 20, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def calibrate(model, batch):
    """Gives batch normalizations the statistics of a batch."""
    norms = [
        found
        for found in model._flatten_layers()
        if type(found).__name__ == "BatchNormalization"
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(batch, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def silence(model, share=0.5, seed=0):
    """Zeroes what reads a share of each group's units; returns what should be left.

    Returns:
      {name of the group: units that stay}.
    """
    rng = np.random.default_rng(seed)
    groups = channel_groups(model)
    gone = np.zeros(groups.trace.units.size, bool)
    left = []
    for group in groups:
        removed = rng.permutation(group.labels)[: int(group.units * share)]
        gone[removed] = True
        left.append((group.name, group.units - len(removed)))
    for place in groups.trace.places.values():
        if place.reads:
            weight = np.moveaxis(np.array(stored(place.variable)), place.axis, 0)
            weight[gone[groups.trace.units.find(place.labels)]] = 0
            place.variable.assign(np.moveaxis(weight, 0, place.axis))
    return sorted(left)


def remove_neighbours(monkeypatch):
    """Lets `sa.shrink` remove other channels: those beside the dead ones."""
    right = shrinking.live_channels

    def wrong(groups):
        live = right(groups).copy()
        for group in groups:
            live[group.labels] = np.roll(live[group.labels], 1)
        return live

    monkeypatch.setattr(shrinking, "live_channels", wrong)


def difference(model, other, batch):
    """How far outputs differ, relative to how far the input moves them."""
    ours, theirs = np.asarray(model(batch)), np.asarray(other(batch))
    moved = np.abs(ours - ours.mean(axis=0)).max()
    # Relative, since a deep network without batch norms has tiny outputs.
    assert moved > 1e-4 * np.abs(ours).max(), "the input does not reach the outputs"
    return np.abs(ours - theirs).max() / moved
