"""Products with a block-sparse matrix, in three forms, from stock operations.

The inputs are cut into rows as long as a block is high. `base` holds the row at which a
sample (or output pixel) begins, and `offsets` how far from there a kept block reads. So
a dense layer and a convolution of any stride and dilation are the same product, and
only inputs that are used are gathered.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_seqattn.inference.block_format import Pattern


def multiply_slices(
    rows: tf.Tensor,
    base: tf.Tensor,
    offsets: Sequence[np.ndarray],
    kernels: Sequence[tf.Tensor],
    pattern: Pattern,
) -> tf.Tensor:
    """Multiplies slice by slice: one gather and one batched product each.

    This is best where a delegate packs the weights beforehand (TFLite's XNNPACK), since
    a slice is one large product.

    Args:
      rows: float tensor `(n, height)`, where `height` is the number of rows of a block.
      base: int32 tensor `(samples,)`, first row of each sample.
      offsets: for each slice an int32 array `(columns, kept blocks)`.
      kernels: for each slice a float tensor `(columns, kept blocks * height, width)`.
        If `pattern.reads_alike`, the columns stand side by side in one tensor
        `(kept blocks * height, columns * width)`.
      pattern: the slices of the matrix.

    Returns:
      Float tensor `(samples, outputs)`.

    Example:

    >>> from tf_seqattn.inference.block_format import find_pattern
    >>> from tf_seqattn.kernels.zero_blocks import block_support
    >>> from tf_seqattn.inference.block_format import pack_matrix
    >>> matrix = np.kron([[1., 0.], [0., 2.]], np.ones((2, 2)))
    >>> pattern = find_pattern(block_support(matrix, (2, 2)), (4, 4), (2, 2))
    >>> offsets = [np.array(part.rows, "int32") for part in pattern.slices]
    >>> x = tf.constant([[1., 2., 3., 4.]], tf.float64)
    >>> multiply_slices(tf.reshape(x, (-1, 2)), tf.constant([0]), offsets,
    ...                 pack_matrix(matrix, pattern), pattern).numpy().tolist()
    [[3.0, 3.0, 14.0, 14.0]]
    """
    height, width = pattern.block_size
    if pattern.reads_alike:
        columns, kept = offsets[0].shape
        # It is unknown if it depends on sizes that are unknown.
        offset = tf.get_static_value(offsets[0])
        if offset is not None and (offset == offset[0]).all():
            read = tf.gather(rows, base[:, None] + offset[:1])
            read = tf.reshape(read, (-1, kept * height))
            return _multiply_once(read, kernels[0], pattern)
        kernel = tf.reshape(kernels[0], (kept * height, columns, width))
        kernels = [tf.transpose(kernel, (1, 0, 2))]
    products: list[tf.Tensor] = []
    for offset, kernel in zip(offsets, kernels, strict=True):
        columns, kept = offset.shape
        start = (
            base + _zero_after(products[-1]) if pattern.chained and products else base
        )
        indices = start[None, :, None] + offset[:, None, :]
        read = tf.reshape(tf.gather(rows, indices), (columns, -1, kept * height))
        products.append(tf.matmul(read, kernel))
    return _put_in_place(products, rows, base, pattern)


def _multiply_once(read: tf.Tensor, matrix: tf.Tensor, pattern: Pattern) -> tf.Tensor:
    """`(samples, outputs)` if all stored columns read the same `(samples, inputs)`.

    Then one smaller dense matrix is stored: whole columns or rows were pruned.
    """
    width, block_columns = pattern.block_size[1], pattern.grid_shape[1]
    order = pattern.slices[0].columns
    outputs = tf.matmul(read, matrix)
    if order != tuple(range(block_columns)):
        place = np.full(block_columns, len(order), np.int32)
        place[list(order)] = np.arange(len(order))
        columns = (place[:, None] * width + np.arange(width)).ravel()
        # Pruned columns read the zeros at the end.
        outputs = tf.gather(tf.pad(outputs, [[0, 0], [0, width]]), columns, axis=1)
    return outputs[:, : pattern.matrix_shape[1]]


def _put_in_place(
    products: list[tf.Tensor], rows: tf.Tensor, base: tf.Tensor, pattern: Pattern
) -> tf.Tensor:
    """`(samples, outputs)` from the products `(columns, samples, width)`."""
    width = pattern.block_size[1]
    block_columns = pattern.grid_shape[1]
    order = [column for part in pattern.slices for column in part.columns]
    if len(order) < block_columns:
        nothing = tf.zeros((1, tf.shape(base)[0], width), rows.dtype)
        products = [*products, nothing]
    stacked = tf.concat(products, axis=0) if len(products) > 1 else products[0]
    if order != list(range(block_columns)):
        # Columns that keep nothing read the zeros at the end. They are moved before the
        # transposition, while a column is one long run.
        place = np.full(block_columns, len(order), np.int32)
        place[order] = np.arange(len(order))
        stacked = tf.gather(stacked, place)
    outputs = tf.transpose(stacked, (1, 0, 2))
    outputs = tf.reshape(outputs, (-1, block_columns * width))
    return outputs[:, : pattern.matrix_shape[1]]


def multiply_groups(
    read: Callable[[tf.Tensor], tf.Tensor],
    offsets: Sequence[tf.Tensor],
    kernels: Sequence[tf.Tensor],
    pattern: Pattern,
    finish: Callable[[tf.Tensor, Sequence[int]], tf.Tensor],
) -> tf.Tensor:
    """Multiplies slice by slice: one gather and one grouped 1 x 1 convolution each.

    This is best in TFLite. The products need no transposition, the runtime fuses what
    `finish` adds, and 8-bit weights have a scale for each output. TensorFlow has no
    grouped convolution on CPU without XLA.

    Args:
      read: function of int32 offsets `(n,)`. It returns the gathered inputs of each
        sample, `(samples, n * height)`.
      offsets: for each slice `(columns, kept blocks)`.
      kernels: for each slice a float tensor `(columns, kept blocks * height, width)`.
      pattern: the slices of the matrix. If it is chained, the offsets of a slice depend
        on the product of the slice before it, by adding zero.
      finish: function of a product `(1, samples, 1, columns * width)` and its block
        columns. It adds the bias, for example.

    Returns:
      Float tensor `(samples, outputs)`.
    """
    height, width = pattern.block_size
    block_columns = pattern.grid_shape[1]
    columns = [part.columns for part in pattern.slices]
    empty = tuple(sorted({*range(block_columns)}.difference(*columns)))
    if empty:
        # They read one block of inputs, and their weights are zero.
        columns = [*columns, empty]
        offsets = [*offsets, np.zeros((len(empty), 1), np.int32)]
        nothing = np.zeros((len(empty), height, width))
        kernels = [*kernels, tf.constant(nothing, kernels[0].dtype)]
    products: list[tf.Tensor] = []
    for part, offset, kernel in zip(columns, offsets, kernels, strict=True):
        offset = tf.reshape(tf.convert_to_tensor(offset), (-1,))
        if pattern.chained and products:
            offset = offset + _zero_after(products[-1])
        length = kernel.shape[1]
        inputs = tf.reshape(read(offset), (1, -1, 1, len(part) * length))
        window = tf.reshape(tf.transpose(kernel, (1, 0, 2)), (1, 1, length, -1))
        product = finish(tf.nn.conv2d(inputs, window, 1, "VALID"), part)
        products.append(tf.reshape(product, (-1, len(part), width)))
    stacked = tf.concat(products, axis=1) if len(products) > 1 else products[0]
    order = np.concatenate(columns)
    if (order != np.arange(block_columns)).any():
        stacked = tf.gather(stacked, np.argsort(order).astype(np.int32), axis=1)
    outputs = tf.reshape(stacked, (-1, block_columns * width))
    return outputs[:, : pattern.matrix_shape[1]]


def _zero_after(product: tf.Tensor) -> tf.Tensor:
    """The int32 number 0, which a runtime knows only after it has the product."""
    entry = tf.reshape(product, (-1,))[:1]
    # No number is less than itself, and neither are infinity and NaN. With another
    # operation in between, no compiler sees that.
    return tf.cast(tf.reduce_any(tf.maximum(entry, entry + 1.0) < entry), tf.int32)


def multiply_blocks(
    read: tf.Tensor, columns: np.ndarray, kernel: tf.Tensor, pattern: Pattern
) -> tf.Tensor:
    """Multiplies block by block and sums over each column, without padding.

    This is best where a compiler fuses the gather and the sum (XLA).

    Args:
      read: float tensor `(kept blocks, samples, height)`, the inputs of each block.
      columns: int32 array `(kept blocks,)`, ascending: the column of each block.
      kernel: float tensor `(kept blocks, height, width)`.
      pattern: the matrix.

    Returns:
      Float tensor `(samples, outputs)`.
    """
    width = pattern.block_size[1]
    block_columns = pattern.grid_shape[1]
    sums = tf.math.unsorted_segment_sum(tf.matmul(read, kernel), columns, block_columns)
    outputs = tf.reshape(tf.transpose(sums, (1, 0, 2)), (-1, block_columns * width))
    return outputs[:, : pattern.matrix_shape[1]]
