"""Blocks are found in the zeros of a matrix."""

import numpy as np
import pytest
from hypothesis import given

from tests.kernels.sparse_matrices import sparse_matrices
from tf_seqattn.kernels.zero_blocks import block_support, find_block_size


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
