"""Blocks of any shape, from one entry wide to a whole axis, from pruning to TFLite."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tf_keras as keras
from hypothesis import given, settings

import tf_seqattn as sa
from tf_seqattn.kernels.blocks import BlockGrid
from tf_seqattn.kernels.zero_blocks import find_block_size

layers = keras.layers
SHAPES = [(1, 4), (4, 1), (16, 1), (8, 32), (None, 1), (1, None), (None, 8)]
EVERYTHING = sa.PruningPolicy()


def pruned_at_once(model, block_size, sparsity=0.5, **kwargs):
    return sa.prune(
        model,
        sa.OneShotSchedule(sparsity, prune_step=0),
        block_size,
        importance=sa.Magnitude(),
        pruning_policy=EVERYTHING,
        **kwargs,
    )


def dense():
    return keras.Sequential(
        [keras.Input((40,)), layers.Dense(64, activation="relu"), layers.Dense(48)]
    )


def convolution():
    return keras.Sequential(
        [
            keras.Input((6, 6, 16)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(40, 1),
        ]
    )


def attention():
    inputs = keras.Input((5, 32))
    outputs = layers.MultiHeadAttention(4, 8, name="attention")(inputs, inputs)
    return keras.Model(inputs, outputs)


MODELS = {"dense": dense, "convolution": convolution, "attention": attention}


def batch_of(model):
    shape = (3, *model.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def assert_close(found, expected):
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-5 * largest)


@pytest.mark.parametrize("block_size", SHAPES, ids=str)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.exhaustive
def test_pruned_packed_and_exported(model, block_size, tmp_path):
    model = MODELS[model]()
    x = batch_of(model)
    pruned = pruned_at_once(model, block_size)
    rows = sa.summary(pruned, print_fn=lambda line: None)
    for row in rows:
        rows_of_matrix, columns = row["matrix_shape"]
        whole = (rows_of_matrix, columns)
        expected = [s or w for s, w in zip(block_size, whole, strict=True)]
        assert list(row["block_size"]) == expected
        kept = max(1, round(row["num_blocks"] / 2))
        assert row["kept_blocks"] == kept
        removed = 1 - kept / row["num_blocks"]
        # They differ if there are partial blocks.
        assert abs(row["zero_fraction"] - removed) < 0.35
    sparse = sa.strip_pruning(pruned)
    expected = sparse(x).numpy()
    assert_close(pruned(x), expected)
    for runtime in ("tflite", "xla"):
        for given_size in (None, block_size):
            packed = sa.pack(sparse, given_size, runtime=runtime, choose="always")
            assert_close(packed(x), expected)
    assert packed.count_params() < 0.9 * sparse.count_params()
    # `export_tflite` itself compares the file with Keras.
    sa.export_tflite(sparse, tmp_path / "model.tflite", choose="always")


@pytest.mark.parametrize("block_size", SHAPES, ids=str)
def test_found_again_in_the_zeros(block_size):
    grid = BlockGrid((48, 64), block_size)
    keep = np.random.default_rng(0).permutation(grid.num_blocks) < grid.num_blocks // 2
    blocks = np.ones(grid.block_size)
    matrix = np.kron(keep.reshape(grid.shape), blocks)
    assert find_block_size(matrix) == grid.block_size


@pytest.mark.parametrize(("block_size", "kept_shape"), [
    ((None, 1), (64, 24)), ((1, None), (32, 48)),
])  # fmt: skip
def test_whole_columns_and_rows_leave_a_smaller_product(block_size, kept_shape):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(48, use_bias=False)])
    sparse = sa.strip_pruning(pruned_at_once(model, block_size))
    packed = sa.pack(sparse, choose="always")
    (kernel,) = packed.weights
    assert np.prod(kernel.shape) == np.prod(kept_shape)
    assert_close(packed(np.eye(64)), sparse(np.eye(64)).numpy())


@pytest.mark.parametrize("runtime", ["tflite", "xla"])
@pytest.mark.parametrize(("size", "groups"), [(None, 1), (6, 2), (None, 2)])
def test_whole_channels_of_convolutions(size, groups, runtime):
    # One product is not enough if sizes are unknown or groups read other channels.
    layer = layers.Conv2D(32, 3, groups=groups, padding="same")
    model = keras.Sequential([keras.Input((size, size, 16)), layer])
    sparse = sa.strip_pruning(pruned_at_once(model, (None, 2)))
    packed = sa.pack(sparse, (None, 2), runtime=runtime, choose="always")
    assert packed.layers[0].pattern.reads_alike
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 16)).astype("float32")
    assert_close(packed(x), sparse(x).numpy())
    assert_close(packed.predict(x, verbose=0), sparse(x).numpy())


def test_whole_heads():
    model = attention()
    # The third and fourth head have small weights.
    layer = model.get_layer("attention")
    for dense in (layer._query_dense, layer._key_dense, layer._value_dense):
        dense.kernel.assign(dense.kernel * np.array([1, 1, 0.1, 0.1])[:, None])
    sparse = sa.strip_pruning(pruned_at_once(model, (None, 8)))
    kernel = sparse.get_layer("attention")._value_dense.kernel.numpy()
    assert kernel.any(axis=(0, 2)).tolist() == [True, True, False, False]


def test_whole_channels_between_layers_are_removed():
    model = dense()
    sparse = sa.strip_pruning(pruned_at_once(model, (None, 1)))
    packed = sa.pack(sparse, (None, 1), choose="always")
    x = batch_of(model)
    assert_close(packed(x), sparse(x).numpy())
    # The second layer reads the 32 channels that are left, and writes 24.
    assert packed.layers[-1].pattern.matrix_shape[0] == 32


@pytest.mark.slow
@settings(max_examples=25)
@given(
    rows=st.integers(2, 40),
    columns=st.integers(2, 40),
    block=st.sampled_from([*SHAPES, (3, None), (None, 5), (7, 2)]),
    sparsity=st.sampled_from([0.3, 0.5, 0.8]),
    runtime=st.sampled_from(["tflite", "xla"]),
)
def test_any_matrix(rows, columns, block, sparsity, runtime):
    block = tuple(
        size and min(size, whole)
        for size, whole in zip(block, (rows, columns), strict=True)
    )
    layer = layers.Dense(columns, bias_initializer="normal")
    model = keras.Sequential([keras.Input((rows,)), layer])
    x = batch_of(model)
    sparse = sa.strip_pruning(pruned_at_once(model, block, sparsity))
    for given_size in (None, block):
        packed = sa.pack(sparse, given_size, runtime=runtime, choose="always")
        assert_close(packed(x), sparse(x).numpy())


def test_configuration_keeps_a_whole_axis(tmp_path):
    pruned = pruned_at_once(dense(), (None, 1))
    pruned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert sa.pruned_layers(loaded)[0].block_size == (None, 1)


def test_both_axes_whole_is_refused():
    with pytest.raises(ValueError, match=r"block_size=\(None, None\)"):
        pruned_at_once(dense(), (None, None))
