"""The kept blocks of a kernel, scaled, with a gradient for all of the kernel."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_seqattn.kernels.blocks import BlockGrid, from_matrix, to_matrix


def take_blocks(
    kernel: tf.Tensor,
    values: tf.Tensor,
    grid: BlockGrid,
    rows: np.ndarray,
    columns: np.ndarray,
    height: int,
    on_gradient: Callable[[tf.Tensor], None] | None = None,
    gain: tf.Tensor | None = None,
) -> tf.Tensor:
    """Blocks of a kernel, each multiplied by the value of its block in the grid.

    Equal to blocks of `scale_blocks(kernel, values, grid, gain=gain)`, but reads no
    others. The gradient of the kernel is 0 in the others.

    Args:
      kernel: float tensor of `grid.kernel_shape`.
      values: float tensor of `grid.shape`.
      grid: the kernel's `BlockGrid`.
      rows: int array `(kept,)`, block rows of the blocks to take, counted in blocks
        of `height`.
      columns: int array `(kept,)`, their block columns.
      height: rows of the blocks to take; a divisor of those of the grid's blocks.
      on_gradient: called in the backward pass with the gradient of `values`, like
        `values` and 0 for blocks that are not taken.
      gain: scalar, or None for 1.

    Returns:
      `(kept, height, block columns)` of the kernel's dtype. Blocks that exceed the
      matrix end with zeros.

    Example:

    >>> grid = BlockGrid((2, 2), (1, 1))
    >>> kernel, values = tf.constant([[1., 2.], [3., 4.]]), tf.fill((2, 2), 10.)
    >>> at = np.array([0, 1])
    >>> take_blocks(kernel, values, grid, at, at, 1).numpy().ravel().tolist()
    [10.0, 40.0]
    """
    width, across = grid.block_size[1], grid.shape[1]
    padding = [
        (0, -size % side)
        for size, side in zip(grid.matrix_shape, (height, width), strict=True)
    ]
    size = grid.matrix_shape[0] + padding[0][1]
    # Each row of a block is one run of entries of the matrix.
    first = rows[:, None] * height + np.arange(height)
    runs = (first * across + columns[:, None]).astype(np.int32)
    run_of_place = np.full(size * across, runs.size, np.int32)
    run_of_place[runs.ravel()] = np.arange(runs.size)
    in_grid = np.stack([rows * height // grid.block_size[0], columns], 1)

    @tf.custom_gradient
    def take(
        kernel: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
        matrix = to_matrix(kernel, grid)
        if np.any(padding):
            matrix = tf.pad(matrix, padding)
        blocks = tf.gather(tf.reshape(matrix, (size * across, width)), runs)
        scales = tf.gather_nd(tf.cast(values, kernel.dtype), in_grid)[:, None, None]
        factor = 1.0 if gain is None else tf.cast(gain, kernel.dtype)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_scales = factor * tf.reduce_sum(upstream * blocks, (1, 2))
            of_values = tf.cast(
                tf.scatter_nd(in_grid, of_scales, grid.shape), values.dtype
            )
            if on_gradient is not None:
                on_gradient(of_values)
            of_runs = tf.reshape(upstream * scales, (-1, width))
            # The last run is zeros, for all places that nothing is taken from.
            of_matrix = tf.gather(tf.pad(of_runs, [(0, 1), (0, 0)]), run_of_place)
            of_matrix = tf.reshape(of_matrix, (size, across * width))
            of_matrix = of_matrix[: grid.matrix_shape[0], : grid.matrix_shape[1]]
            return from_matrix(of_matrix, grid), of_values

        return blocks * (factor * scales), gradient

    return take(kernel, values)
