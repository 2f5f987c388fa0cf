"""Geometry of one kernel: reading it as a matrix and cutting that into blocks.

Everything here is a plain function of tensors and of a `BlockGrid`; nothing
knows about Keras. A kernel of any rank is read as the matrix it contracts
(inputs by outputs), and that matrix is cut into `block_size` blocks. Blocks at
the lower and right edges are partial where the sizes do not divide.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def check_block_size(block_size: Sequence[int | None]) -> tuple[int | None, int | None]:
    """Returns `block_size` as a pair of positive ints, one of which may be None.

    Args:
      block_size: a sequence of two positive integers, (rows, columns) of a
        block: entries along the inputs, entries along the outputs. None in the place
        of one means all of them: `(None, 1)` is a whole output channel.

    Raises:
      ValueError: if it is anything else.

    Example:

    >>> check_block_size([4, 8]), check_block_size((None, 1))
    ((4, 8), (None, 1))
    """
    try:
        sizes = tuple(block_size)
    except TypeError:
        sizes = ()
    numbers = [size for size in sizes if size is not None]
    is_integer = [
        isinstance(s, (int, np.integer)) and not isinstance(s, bool) for s in numbers
    ]
    if len(sizes) != 2 or not numbers or not all(is_integer) or min(numbers) < 1:
        raise ValueError(
            "`block_size` must be two positive integers, (input rows, output columns)"
            " of a block, such as (16, 16); one may be None for the whole axis, as in "
            f"(None, 1). Received: block_size={block_size!r}"
        )
    rows, columns = (None if size is None else int(size) for size in sizes)
    return rows, columns


@dataclasses.dataclass(frozen=True)
class BlockGrid:
    """How one kernel is read as a matrix and cut into blocks.

    Attributes:
      kernel_shape: shape of the kernel.
      block_size: (rows, columns) of a block. None, for a whole axis, is replaced by
        the size of the matrix.
      row_axes: the kernel's axes that are contracted (inputs), in the order in
        which they form the rows of the matrix. Default: all axes but the last.
      column_axes: the remaining axes (outputs). Default: the last one.

    Example:

    >>> grid = BlockGrid((3, 3, 64, 32), (16, 16))
    >>> grid.matrix_shape, grid.shape, grid.num_blocks
    ((576, 32), (36, 2), 72)
    >>> BlockGrid((3, 3, 64, 32), (None, 1)).block_size
    (576, 1)
    """

    kernel_shape: tuple[int, ...]
    block_size: tuple[int, int]
    row_axes: tuple[int, ...] = ()
    column_axes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.kernel_shape)
        if len(shape) < 2:
            raise ValueError(
                "A kernel needs at least two axes to be cut into blocks. Received: "
                f"kernel_shape={shape}"
            )
        axes = tuple(range(len(shape)))
        object.__setattr__(self, "kernel_shape", shape)
        object.__setattr__(self, "row_axes", tuple(self.row_axes) or axes[:-1])
        object.__setattr__(self, "column_axes", tuple(self.column_axes) or axes[-1:])
        if sorted(self.row_axes + self.column_axes) != list(axes):
            raise ValueError(
                "`row_axes` and `column_axes` must name every axis of the kernel once."
                f" Received: row_axes={self.row_axes}, column_axes={self.column_axes},"
                f" kernel_shape={shape}"
            )
        height, width = check_block_size(self.block_size)
        rows, columns = self.matrix_shape
        object.__setattr__(self, "block_size", (height or rows, width or columns))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, columns) of the kernel read as a matrix."""
        rows = math.prod(self.kernel_shape[axis] for axis in self.row_axes)
        columns = math.prod(self.kernel_shape[axis] for axis in self.column_axes)
        return rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        """(block rows, block columns), partial blocks counted."""
        (rows, columns), (height, width) = self.matrix_shape, self.block_size
        return -(-rows // height), -(-columns // width)

    @property
    def num_blocks(self) -> int:
        """Number of blocks, partial ones counted."""
        return math.prod(self.shape)

    @property
    def permutation(self) -> tuple[int, ...]:
        """Order of the kernel's axes in the matrix."""
        return self.row_axes + self.column_axes

    @property
    def fits(self) -> bool:
        """Whether at least one whole block fits into the matrix."""
        rows, columns = self.matrix_shape
        return self.block_size[0] <= rows and self.block_size[1] <= columns

    def block_entries(self) -> np.ndarray:
        """Number of kernel entries in each block, an int array of `shape`."""
        rows, columns = (
            np.minimum(block, size - block * np.arange(count))
            for size, block, count in zip(
                self.matrix_shape, self.block_size, self.shape, strict=True
            )
        )
        return np.outer(rows, columns)


def to_matrix(kernel: tf.Tensor, grid: BlockGrid) -> tf.Tensor:
    """Reads a kernel of `grid.kernel_shape` as a matrix of `grid.matrix_shape`."""
    if grid.permutation != tuple(range(len(grid.kernel_shape))):
        kernel = tf.transpose(kernel, grid.permutation)
    return tf.reshape(kernel, grid.matrix_shape)


def from_matrix(matrix: tf.Tensor, grid: BlockGrid) -> tf.Tensor:
    """Inverse of `to_matrix`."""
    permuted_shape = [grid.kernel_shape[axis] for axis in grid.permutation]
    kernel = tf.reshape(matrix, permuted_shape)
    if grid.permutation != tuple(range(len(grid.kernel_shape))):
        kernel = tf.transpose(kernel, np.argsort(grid.permutation))
    return kernel


def _sum_groups(values: tf.Tensor, group: int, axis: int) -> tf.Tensor:
    """Sums runs of `group` neighbours along `axis` (0 or 1) of a matrix."""
    rows, columns = values.shape
    remainder = values.shape[axis] % group
    if remainder:
        whole = values.shape[axis] - remainder
        head, tail = tf.split(values, [whole, remainder], axis)
        tail = tf.reduce_sum(tail, axis, keepdims=True)
        if not whole:
            return tail
        return tf.concat([_sum_groups(head, group, axis), tail], axis)
    if axis == 0:
        return tf.reduce_sum(tf.reshape(values, (rows // group, group, columns)), 1)
    return tf.reduce_sum(tf.reshape(values, (rows, columns // group, group)), 2)


def sum_blocks(kernel: tf.Tensor, grid: BlockGrid) -> tf.Tensor:
    """Sums the entries of each block.

    Args:
      kernel: float tensor of `grid.kernel_shape`.
      grid: the kernel's `BlockGrid`.

    Returns:
      Tensor of `grid.shape` and the kernel's dtype.

    Example:

    >>> grid = BlockGrid((4, 3), (2, 2))
    >>> sum_blocks(tf.ones((4, 3)), grid).numpy().tolist()
    [[4.0, 2.0], [4.0, 2.0]]
    """
    # Rows first: that reduction is contiguous and leaves little for the second.
    partial = _sum_groups(to_matrix(kernel, grid), grid.block_size[0], axis=0)
    return _sum_groups(partial, grid.block_size[1], axis=1)


def max_blocks(kernel: tf.Tensor, grid: BlockGrid) -> tf.Tensor:
    """Largest entry of each block.

    Args:
      kernel: float tensor of `grid.kernel_shape`.
      grid: the kernel's `BlockGrid`.

    Returns:
      Tensor of `grid.shape` and the kernel's dtype.

    Example:

    >>> kernel = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> max_blocks(kernel, BlockGrid((2, 3), (2, 2))).numpy().tolist()
    [[5.0, 6.0]]
    """
    matrix = to_matrix(kernel, grid)
    for axis, size in enumerate(grid.block_size):
        groups = np.arange(matrix.shape[axis]) // size
        lined_up = matrix if axis == 0 else tf.transpose(matrix)
        matrix = tf.math.segment_max(lined_up, groups)
    return tf.transpose(matrix)


def block_norms(kernel: tf.Tensor, grid: BlockGrid) -> tf.Tensor:
    """Frobenius norm of each block, float32 of `grid.shape`.

    Example:

    >>> block_norms(tf.ones((4, 4)), BlockGrid((4, 4), (2, 2))).numpy().tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    return tf.sqrt(sum_blocks(tf.square(tf.cast(kernel, tf.float32)), grid))


def _repeat(values: tf.Tensor, block: int, size: int, axis: int) -> tf.Tensor:
    """Repeats each entry `block` times along `axis`, the last one cut at `size`."""
    return tf.gather(values, np.arange(size) // block, axis=axis)


def expand_blocks(values: tf.Tensor, grid: BlockGrid) -> tf.Tensor:
    """Gives every entry of the kernel the value of its block.

    Args:
      values: tensor of `grid.shape`.
      grid: the kernel's `BlockGrid`.

    Returns:
      Tensor of `grid.kernel_shape` and the dtype of `values`.

    Example:

    >>> grid = BlockGrid((2, 3), (1, 2))
    >>> expand_blocks(tf.constant([[1., 2.], [3., 4.]]), grid).numpy().tolist()
    [[1.0, 1.0, 2.0], [3.0, 3.0, 4.0]]
    """
    rows, columns = grid.matrix_shape
    values = _repeat(values, grid.block_size[1], columns, axis=1)
    return from_matrix(_repeat(values, grid.block_size[0], rows, axis=0), grid)


def _scale_matrix(matrix: tf.Tensor, values: tf.Tensor, grid: BlockGrid) -> tf.Tensor:
    """`matrix * expand(values)` in one pass over the matrix."""
    rows, columns = grid.matrix_shape
    height = grid.block_size[0]
    row_values = _repeat(values, grid.block_size[1], columns, axis=1)
    if rows % height:
        return matrix * _repeat(row_values, height, rows, axis=0)
    strips = tf.reshape(matrix, (rows // height, height, columns))
    return tf.reshape(strips * row_values[:, None, :], (rows, columns))


def scale_blocks(
    kernel: tf.Tensor,
    values: tf.Tensor,
    grid: BlockGrid,
    on_gradient: Callable[[tf.Tensor], None] | None = None,
    gain: tf.Tensor | None = None,
) -> tf.Tensor:
    """Multiplies every block of a kernel by its own value.

    Equal to `kernel * expand_blocks(values, grid)`, with the gradients written
    out: one pass over the kernel each, where automatic differentiation would
    scatter through the repetition. With a gain, equal to `gain` times that; the
    gradient of the kernel alone passes the gain unchanged.

    Args:
      kernel: float tensor of `grid.kernel_shape`.
      values: float tensor of `grid.shape`.
      grid: the kernel's `BlockGrid`.
      on_gradient: called in the backward pass with the gradient of `values`, like
        `values`, even where nothing else needs that gradient.
      gain: scalar, or None for 1.

    Returns:
      Tensor like `kernel`.

    Example:

    >>> grid = BlockGrid((2, 4), (2, 2))
    >>> scale_blocks(tf.ones((2, 4)), tf.constant([[0., 3.]]), grid).numpy().tolist()
    [[0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, 3.0]]
    """

    @tf.custom_gradient
    def scale(
        kernel: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
        cast_values = tf.cast(values, kernel.dtype)
        gained = values if gain is None else gain * values
        scaled = _scale_matrix(
            to_matrix(kernel, grid), tf.cast(gained, kernel.dtype), grid
        )

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # A later derivative sees ordinary operations.
            upstream_matrix = to_matrix(upstream, grid)
            kernel_gradient = _scale_matrix(upstream_matrix, cast_values, grid)
            value_gradient = tf.cast(sum_blocks(upstream * kernel, grid), values.dtype)
            if gain is not None:
                value_gradient *= gain
            if on_gradient is not None:
                on_gradient(value_gradient)
            return from_matrix(kernel_gradient, grid), value_gradient

        return from_matrix(scaled, grid), gradient

    return scale(kernel, values)


@functools.lru_cache(maxsize=256)
def _entry_fractions(grid: BlockGrid) -> np.ndarray:
    entries = grid.block_entries()
    return entries / entries.sum()


def entry_sparsity(mask: npt.ArrayLike, grid: BlockGrid) -> float:
    """Share of the kernel's entries (not blocks) that a block mask removes.

    Example:

    >>> entry_sparsity([[1., 0.]], BlockGrid((2, 3), (2, 2)))
    0.3333333333333333
    """
    return float(((1.0 - np.asarray(mask)) * _entry_fractions(grid)).sum())
