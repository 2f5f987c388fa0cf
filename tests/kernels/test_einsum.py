"""Equations of EinsumDense against numpy.einsum."""

import numpy as np
import pytest

from tf_seqattn.kernels.blocks import BlockGrid, to_matrix
from tf_seqattn.kernels.einsum import is_one_product, kernel_axes, split_equation


@pytest.mark.parametrize(
    ("equation", "inputs", "kernel"),
    [
        ("ab,bc->ac", (3, 4), (4, 5)),
        ("abc,cde->abde", (2, 3, 4), (4, 5, 6)),
        ("abde,dec->abc", (2, 3, 4, 5), (4, 5, 6)),
        ("ab,cb->ac", (3, 4), (5, 4)),
        ("...x,xy->...y", (2, 3, 4), (4, 5)),
    ],
)
def test_the_matrix_of_a_kernel_gives_the_same_product(equation, inputs, kernel):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=inputs), rng.normal(size=kernel)
    assert is_one_product(equation)
    grid = BlockGrid(kernel, (1, 1), **kernel_axes(equation))
    matrix = to_matrix(w, grid).numpy()
    read, labels, written = split_equation(equation, x.ndim)
    # The inputs with the contracted axes last, in the order of the kernel.
    contracted = [read.index(label) for label in labels if label in read]
    kept = [axis for axis in range(x.ndim) if axis not in contracted]
    rows = x.transpose(kept + contracted).reshape(-1, matrix.shape[0])
    product = np.einsum(f"{read},{labels}->{written}", x, w)
    np.testing.assert_allclose((rows @ matrix).ravel(), product.ravel(), rtol=1e-12)


@pytest.mark.parametrize("equation", ["ab,abc->ac", "ab,bcd->ac"])
def test_more_than_one_product_is_noticed(equation):
    assert not is_one_product(equation)
