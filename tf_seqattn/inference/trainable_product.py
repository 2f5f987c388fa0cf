"""A product with a block-sparse matrix that trains: gradients from kept blocks alone.

The inputs and outputs are kept transposed, `(block rows, height, samples)`, so that a
block of inputs is one long run of memory, and gathers are fast. Each gather and its
product work on a part that stays in the cache, one after another. The gradient of the
input is the product with the transposed pattern, gathered too: nothing is scattered.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_seqattn.inference.block_format import find_pattern


@dataclasses.dataclass(frozen=True)
class _Part:
    """Columns of blocks that one gather and one batched product compute.

    Attributes:
      columns: the columns `(n,)`.
      rows: int32 `(n, kept)`, the block rows that each column reads.
      blocks: int32 `(n, kept)`, the blocks to multiply with. Padding has the number of
        blocks, where a block of zeros stands.
    """

    columns: np.ndarray
    rows: np.ndarray
    blocks: np.ndarray


@dataclasses.dataclass(frozen=True)
class BlockPositions:
    """Where the kept blocks of a matrix are.

    Attributes:
      rows, columns: block row and block column of each kept block.
      grid_shape: (block rows, block columns) of the matrix.
      max_blocks: how many blocks of inputs may be gathered at a time, or None.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    grid_shape: tuple[int, int]
    max_blocks: int | None = None

    @functools.cached_property
    def transposed(self) -> "BlockPositions":
        """The positions in the transposed matrix, in the same order."""
        grid_shape = self.grid_shape[::-1]
        return BlockPositions(self.columns, self.rows, grid_shape, self.max_blocks)

    @functools.cached_property
    def parts(self) -> list[_Part]:
        """All columns that keep something. Those of a part keep about as much."""
        number = np.full(self.grid_shape, len(self.rows), np.int32)
        number[self.rows, self.columns] = np.arange(len(self.rows))
        support = number < len(self.rows)
        pattern = find_pattern(
            support, self.grid_shape, (1, 1), max_blocks=self.max_blocks
        )
        parts = []
        for part in pattern.slices:
            columns = np.array(part.columns, np.int32)
            rows = np.array(part.rows, np.int32)
            blocks = number[rows, columns[:, None]]
            # Padding repeats row 0, which may be kept. Rows ascend otherwise.
            is_padding = (rows == 0) & (np.arange(rows.shape[1]) > 0)
            parts.append(
                _Part(columns, rows, np.where(is_padding, len(self.rows), blocks))
            )
        return parts

    @functools.cached_property
    def order(self) -> np.ndarray:
        """For each column its place in the parts; the number of places if in none."""
        columns = np.concatenate([part.columns for part in self.parts])
        place = np.full(self.grid_shape[1], len(columns), np.int32)
        place[columns] = np.arange(len(columns))
        return place

    @functools.cached_property
    def order_of_blocks(self) -> np.ndarray:
        """For each block its place in the parts."""
        blocks = np.concatenate([part.blocks.ravel() for part in self.parts])
        place = np.zeros(len(self.rows) + 1, np.int32)
        place[blocks] = np.arange(len(blocks))
        return place[:-1]


def _with_zeros(blocks: tf.Tensor) -> tf.Tensor:
    """The blocks, and one of zeros."""
    return tf.pad(blocks, [[0, 1], [0, 0], [0, 0]])


def _read_after(before: list[tf.Tensor], inputs: tf.Tensor, part: _Part) -> tf.Tensor:
    """The inputs of a part, `(columns, kept * height, samples)`, gathered in its turn.

    Args:
      before: what must be computed first.
      inputs: `(block rows, height, samples)`.
      part: what reads them.
    """
    with tf.control_dependencies(before):
        read = tf.gather(inputs, part.rows)
    count, kept = part.rows.shape
    return tf.reshape(read, (count, kept * inputs.shape[1], tf.shape(inputs)[2]))


def _product(
    inputs: tf.Tensor, blocks: tf.Tensor, positions: BlockPositions
) -> tf.Tensor:
    """The transposed outputs `(block columns, width, samples)`.

    Args:
      inputs: `(block rows, height, samples)`.
      blocks: `(kept blocks, height, width)`.
      positions: where they are.
    """
    height, width = blocks.shape[1:]
    padded = _with_zeros(blocks)
    products: list[tf.Tensor] = []
    for part in positions.parts:
        count, kept = part.rows.shape
        read = _read_after(products[-1:], inputs, part)
        kernel = tf.reshape(
            tf.gather(padded, part.blocks), (count, kept * height, width)
        )
        products.append(tf.matmul(kernel, read, transpose_a=True))
    if len(positions.order) > sum(len(part.columns) for part in positions.parts):
        products.append(tf.zeros((1, width, tf.shape(inputs)[2]), inputs.dtype))
    return tf.gather(tf.concat(products, 0), positions.order)


def _gradient_of_blocks(
    inputs: tf.Tensor, gradient: tf.Tensor, positions: BlockPositions
) -> tf.Tensor:
    """The gradient of the kept blocks `(kept blocks, height, width)`.

    Args:
      inputs: `(block rows, height, samples)`.
      gradient: of the outputs, `(block columns, width, samples)`.
      positions: where the blocks are.
    """
    height, width = inputs.shape[1], gradient.shape[1]
    gradients: list[tf.Tensor] = []
    for part in positions.parts:
        count, kept = part.rows.shape
        read = _read_after(gradients[-1:], inputs, part)
        product = tf.matmul(read, tf.gather(gradient, part.columns), transpose_b=True)
        gradients.append(tf.reshape(product, (count * kept, height, width)))
    return tf.gather(tf.concat(gradients, 0), positions.order_of_blocks)


def trainable_product(
    inputs: tf.Tensor, blocks: tf.Tensor, positions: BlockPositions
) -> tf.Tensor:
    """The product of a matrix and a block-sparse one, both gradients from kept blocks.

    Args:
      inputs: float tensor `(block rows, height, samples)`, the matrix transposed.
      blocks: float tensor `(kept blocks, height, width)` of the same dtype.
      positions: where they are in the block-sparse matrix; at least one.

    Returns:
      Float tensor `(block columns, width, samples)`, the product transposed.

    Example:

    >>> positions = BlockPositions((0, 1), (0, 1), (2, 2))
    >>> blocks = tf.constant([[[1.]], [[2.]]])
    >>> x = tf.constant([[[1., 3.]], [[2., 4.]]])
    >>> trainable_product(x, blocks, positions).numpy().tolist()
    [[[1.0, 3.0]], [[4.0, 8.0]]]
    """

    @tf.custom_gradient
    def product(inputs: tf.Tensor, blocks: tf.Tensor) -> tuple[tf.Tensor, object]:
        def gradients(upstream: tf.Tensor) -> Sequence[tf.Tensor]:
            transposed = tf.transpose(blocks, (0, 2, 1))
            return (
                _product(upstream, transposed, positions.transposed),
                _gradient_of_blocks(inputs, upstream, positions),
            )

        return _product(inputs, blocks, positions), gradients

    return product(inputs, blocks)
