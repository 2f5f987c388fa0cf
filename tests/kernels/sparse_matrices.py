"""Matrices with blocks of zeros, for tests with hypothesis."""

import hypothesis.strategies as st
import numpy as np


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
