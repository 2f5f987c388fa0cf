"""The block-sparse format against dense NumPy matrices."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tf_seqattn.inference.block_format import (
    MAX_PADDING,
    Pattern,
    block_support,
    find_block_size,
    find_pattern,
    kept_blocks,
    pack_matrix,
    unpack_matrix,
)


@st.composite
def sparse_matrices(draw):
    """(matrix, block size) with blocks of zeros, edges included."""
    block = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    grid = [-(-s // b) for s, b in zip(shape, block, strict=True)]
    support = rng.random(grid) < draw(st.floats(0, 1))
    mask = np.kron(support, np.ones(block))[: shape[0], : shape[1]]
    return mask * rng.uniform(1, 2, shape), block


@given(sparse_matrices(), st.floats(0, 100), st.sampled_from([None, 1, 4]))
def test_packing_and_unpacking_is_the_identity(case, cost_of_slice, max_blocks):
    matrix, block = case
    support = block_support(matrix, block)
    pattern = find_pattern(support, matrix.shape, block, cost_of_slice, max_blocks)
    arrays = pack_matrix(matrix, pattern)
    np.testing.assert_array_equal(unpack_matrix(arrays, pattern), matrix)
    assert pattern.num_kept == support.sum()
    assert pattern.num_stored <= MAX_PADDING * pattern.num_kept
    columns = [c for part in pattern.slices for c in part.columns]
    assert sorted(columns) == np.flatnonzero(support.any(axis=0)).tolist()
    assert Pattern.from_config(pattern.get_config()) == pattern
    rows, columns, blocks = kept_blocks(pattern, arrays)
    assert len(blocks) == pattern.num_kept and (np.diff(columns) >= 0).all()
    assert support[rows, columns].all() and np.abs(blocks).max(initial=1) > 0


@given(sparse_matrices())
def test_the_grid_that_is_found_holds_the_zeros(case):
    matrix, _ = case
    found = find_block_size(matrix)
    if found is None:
        return
    support = block_support(matrix, found)
    mask = np.kron(support, np.ones(found))[: matrix.shape[0], : matrix.shape[1]]
    assert np.count_nonzero(matrix) >= 0.9 * mask.sum()


@pytest.mark.parametrize("block", [(20, 20), (8, 32), (16, 4)])
def test_the_grid_of_random_blocks_is_found(block):
    rng = np.random.default_rng(0)
    matrix = np.kron(rng.random((12, 12)) < 0.4, np.ones(block))
    matrix = matrix[:-3, :-3] * rng.normal(size=matrix[:-3, :-3].shape)
    assert find_block_size(matrix) == block


def test_a_kept_weight_may_be_zero_by_chance():
    rng = np.random.default_rng(0)
    matrix = np.kron(rng.random((12, 12)) < 0.4, np.ones((16, 16)))
    matrix *= rng.normal(size=matrix.shape)
    matrix[rng.random(matrix.shape) < 0.01] = 0
    assert find_block_size(matrix) == (16, 16)


def test_scattered_zeros_and_no_zeros_have_no_grid():
    rng = np.random.default_rng(0)
    assert find_block_size(rng.normal(size=(64, 64))) is None
    assert find_block_size(np.where(rng.random((64, 64)) < 0.5, 1.0, 0.0)) is None


def test_rows_of_a_block_divide_the_channels():
    matrix = np.kron(np.eye(6), np.ones((16, 16)))
    assert find_block_size(matrix, row_divisor=24) == (8, 16)
    assert find_block_size(matrix, row_divisor=3) is None


def test_slices_weigh_padding_against_operations():
    support = np.zeros((20, 40), bool)
    for column in range(40):
        support[: 10 + column % 2, column] = True
    one = find_pattern(support, (160, 320), (8, 8), cost_of_slice=100)
    two = find_pattern(support, (160, 320), (8, 8), cost_of_slice=1)
    assert (len(one.slices), len(two.slices)) == (1, 2)
    assert one.num_stored == 440 and two.num_stored == two.num_kept == 420
    parts = find_pattern(support, (160, 320), (8, 8), 100, max_blocks=120)
    assert max(part.num_blocks for part in parts.slices) <= 120
