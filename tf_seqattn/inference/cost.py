"""Predicts the cost of a product, dense and packed, without measuring.

The model is a roofline of one x86-64 thread with five constants. They were fitted to
the table that `benchmarks/inference.py` writes: the ratios of its layers are right
within 14 % (root mean square). Only ratios are used, to decide whether packing pays. If
the decision is close, or the machine is different, measure (`sa.pack(...,
choose="measure")`).
"""

import math

from tf_seqattn.inference.block_format import Pattern

# Seconds per multiply-add in a large product.
_PER_MULTIPLY = 1 / 106e9
# Seconds per weight read. It bounds small batches.
_PER_WEIGHT = 4 / 122e9
# Seconds per input entry that is gathered for a product (written once, read once), if
# the inputs stay in the cache next to the processor.
_PER_GATHERED = 0.15e-9
# Cost of starting a run, in entries.
_BEGIN_RUN = 13
# Inputs of this many bytes no longer stay there.
_CACHE_BYTES = 2**19
# Seconds per operation of the graph.
_PER_OPERATION = 0.05e-6
# Operations of a packed product, and the additional ones of each slice.
_OPERATIONS, _OPERATIONS_OF_SLICE = 8, 5
# Columns that the product kernels compute at a time.
_COLUMNS_AT_A_TIME = 32


def _product(samples: int, weights: int) -> float:
    return weights * max(samples * _PER_MULTIPLY, _PER_WEIGHT)


def dense_seconds(samples: int, inputs: int, outputs: int) -> float:
    """Expected time of `(samples, inputs) @ (inputs, outputs)`.

    Example:

    >>> dense_seconds(1, 2048, 2048) < dense_seconds(64, 2048, 2048)
    True
    """
    return _product(samples, inputs * outputs) + _PER_OPERATION


def _computed_width(width: int) -> int:
    """Columns computed for a block. Narrow blocks leave instructions half used."""
    return -(-width // _COLUMNS_AT_A_TIME) * _COLUMNS_AT_A_TIME


def _gathered_entry(samples: int, inputs: int) -> float:
    """Seconds per gathered entry; they grow with the size of the inputs."""
    return _PER_GATHERED * math.sqrt(1.0 + 4 * samples * inputs / _CACHE_BYTES)


def slice_in_blocks(samples: int, block_size: tuple[int, int]) -> float:
    """Cost of one more slice, in products with one block.

    Args:
      samples: rows of the input.
      block_size: (rows, columns) of a block.
    """
    height, width = block_size
    product = _product(samples, height * _computed_width(width))
    block = product + samples * (height + _BEGIN_RUN) * _PER_GATHERED
    return _OPERATIONS_OF_SLICE * _PER_OPERATION / block


def packed_seconds(samples: int, pattern: Pattern, window: int = 1) -> float:
    """Expected time of the same product from its kept blocks, by slices.

    Args:
      samples: rows of the input, which is the batch times the positions of a
        convolution.
      pattern: the positions of the kept blocks.
      window: positions in the window of a convolution. Neighbours read the same inputs.
    """
    height, width = pattern.block_size
    stored = read = pattern.num_stored
    weights = stored * height * _computed_width(width)
    if pattern.reads_alike:
        (part,) = pattern.slices
        read = len(part.rows[0])
        weights = read * height * _computed_width(len(part.columns) * width)
    product = _product(samples, weights)
    inputs, outputs = pattern.matrix_shape
    moved = samples * (read * (height + _BEGIN_RUN) + 2 * outputs)
    operations = _OPERATIONS + _OPERATIONS_OF_SLICE * len(pattern.slices)
    gathered = moved * _gathered_entry(samples, inputs // window)
    return product + gathered + operations * _PER_OPERATION
