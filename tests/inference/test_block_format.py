"""The block-sparse format, compared with dense NumPy matrices."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from tests.kernels.sparse_matrices import sparse_matrices
from tf_seqattn.inference.block_format import (
    MAX_PADDING,
    Pattern,
    find_pattern,
    kept_blocks,
    pack_matrix,
    unpack_matrix,
)
from tf_seqattn.kernels.zero_blocks import block_support


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
