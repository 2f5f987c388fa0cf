"""Models with zeros in blocks, shared by the tests of packing and export."""

import math

import numpy as np
import pytest


def block_sparse(shape, block_size, density, rng) -> np.ndarray:
    """A float32 matrix of `shape` that keeps `density` of its blocks, at least one."""
    grid = [-(-size // block) for size, block in zip(shape, block_size, strict=True)]
    support = rng.random(grid) < density
    support.flat[rng.integers(support.size)] = True
    mask = np.kron(support, np.ones(block_size))[: shape[0], : shape[1]]
    return (mask * rng.normal(size=shape)).astype("float32")


def set_block_sparse(model, block_size=(8, 8), density=0.3, seed=0):
    """Fills all weights of a model: kernels with blocks, the others at random."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if len(shape) < 2 or "bias" in weight.name or "depthwise" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, size=shape))
            continue
        # Attention kernels are (inputs, heads, size), except that of the output.
        path = getattr(weight, "path", weight.name).split("/")
        rows = 1 if path[-2] in ("query", "key", "value") else -1
        height = int(np.prod(shape[:rows]))
        matrix = block_sparse((height, math.prod(shape) // height),
                              block_size, density, rng)  # fmt: skip
        weight.assign(matrix.reshape(shape))
    return model


@pytest.fixture
def mlp(keras):
    """Two dense layers, 96-80-10, with blocks of 8 x 8."""
    layers = [
        keras.Input((96,), name="x"),
        keras.layers.Dense(80, activation="relu", name="first"),
        keras.layers.Dense(10, name="second"),
    ]
    return set_block_sparse(keras.Sequential(layers, name="mlp"))


@pytest.fixture
def separable(keras):
    """Separable convolutions in one and two dimensions, with blocks of 8 x 8."""
    layers = keras.layers
    x = keras.Input((8, 8, 16), name="x")
    y = layers.SeparableConv2D(
        24, 3, padding="same", depth_multiplier=2, use_bias=False, name="first"
    )(x)
    y = layers.BatchNormalization(name="folded")(y)
    y = layers.Reshape((64, 24))(layers.ReLU()(y))
    y = layers.SeparableConv1D(32, 5, strides=2, activation="relu", name="second")(y)
    y = layers.Dense(10, name="last")(layers.GlobalAveragePooling1D()(y))
    model = set_block_sparse(keras.Model(x, y), density=0.5)
    # Every channel is read, or packing would remove it.
    kernel = np.random.default_rng(1).normal(size=(32, 10))
    model.get_layer("last").kernel.assign(kernel)
    return model
