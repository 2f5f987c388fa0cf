"""Geometry of kernels against plain loops."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_seqattn.kernels import blocks
from tf_seqattn.kernels.blocks import BlockGrid


@st.composite
def grids(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    axes = draw(st.permutations(range(len(shape))))
    cut = draw(st.integers(1, len(shape) - 1))
    block = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    return BlockGrid(shape, block, tuple(axes[:cut]), tuple(axes[cut:]))


def entries(grid):
    """Yields (kernel index, block row, block column) of every entry, by loops."""
    for index in np.ndindex(*grid.kernel_shape):
        row = column = 0
        for axis in grid.row_axes:
            row = row * grid.kernel_shape[axis] + index[axis]
        for axis in grid.column_axes:
            column = column * grid.kernel_shape[axis] + index[axis]
        yield index, row // grid.block_size[0], column // grid.block_size[1]


@settings(max_examples=40)
@given(grid=grids(), seed=st.integers(0, 99))
def test_sums_and_expansion_match_loops(grid, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=grid.kernel_shape).astype("float32")
    values = rng.normal(size=grid.shape).astype("float32")
    sums, counts = np.zeros(grid.shape), np.zeros(grid.shape, int)
    expanded = np.zeros(grid.kernel_shape)
    for index, i, j in entries(grid):
        sums[i, j] += kernel[index]
        counts[i, j] += 1
        expanded[index] = values[i, j]
    np.testing.assert_allclose(blocks.sum_blocks(kernel, grid), sums, atol=1e-5)
    np.testing.assert_array_equal(grid.block_entries(), counts)
    np.testing.assert_allclose(blocks.expand_blocks(values, grid), expanded, rtol=1e-6)
    scaled = blocks.scale_blocks(tf.constant(kernel), tf.constant(values), grid)
    np.testing.assert_allclose(scaled, kernel * expanded, rtol=1e-5)
    matrix = blocks.to_matrix(tf.constant(kernel), grid)
    np.testing.assert_array_equal(blocks.from_matrix(matrix, grid), kernel)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (3, 2, 5)])
def test_written_out_gradients_are_those_of_the_product(shape, jit):
    grid = BlockGrid(shape, (3, 2))
    rng = np.random.default_rng(0)
    kernel = tf.constant(rng.normal(size=shape), tf.float32)
    values = tf.constant(rng.normal(size=grid.shape), tf.float32)
    weight = tf.constant(rng.normal(size=shape), tf.float32)

    @tf.function(jit_compile=jit)
    def gradients(product):
        with tf.GradientTape() as tape:
            tape.watch([kernel, values])
            loss = tf.reduce_sum(weight * tf.square(product(kernel, values)))
        return tape.gradient(loss, [kernel, values])

    fast = gradients(lambda k, v: blocks.scale_blocks(k, v, grid))
    plain = gradients(lambda k, v: k * blocks.expand_blocks(v, grid))
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, tf.convert_to_tensor(b), rtol=2e-4, atol=1e-5)


def test_convolution_is_read_as_inputs_by_outputs():
    grid = BlockGrid((3, 3, 64, 32), (16, 16))
    assert grid.matrix_shape == (576, 32)
    assert grid.num_blocks == 72


def test_criteo_layer_has_partial_blocks():
    grid = BlockGrid((390, 400), (20, 20))
    assert grid.shape == (20, 20)
    assert grid.block_entries()[-1, 0] == 10 * 20
    mask = np.ones(grid.shape)
    mask[-1] = 0
    assert blocks.entry_sparsity(mask, grid) == pytest.approx(10 / 390)


@pytest.mark.parametrize(
    "block_size", [(0, 4), (4, -1), (2.5, 4), (4,), (4, 4, 4), 4, "44", None, (True, 2)]
)
def test_bad_block_size_is_named(block_size):
    with pytest.raises(ValueError, match="block_size"):
        blocks.check_block_size(block_size)


def test_axes_must_cover_the_kernel():
    with pytest.raises(ValueError, match="row_axes"):
        BlockGrid((2, 3, 4), (1, 1), (0,), (2,))
    with pytest.raises(ValueError, match="two axes"):
        BlockGrid((3,), (1, 1))
