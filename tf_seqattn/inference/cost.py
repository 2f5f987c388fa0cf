"""What a product is expected to cost, dense and packed, without measuring.

A roofline of one x86-64 thread with four figures, fitted to the table that
`benchmarks/inference.py` writes. Only ratios are used, to decide whether packing pays;
where the decision is near, or the machine is of another kind, measure
(`sa.pack(..., choose="measure")`).
"""

from tf_seqattn.inference.packing import Pattern

# Seconds per multiply-add, of a product large enough.
_PER_MULTIPLY = 1 / 106e9
# Seconds per weight read, which bounds small batches.
_PER_WEIGHT = 4 / 95e9
# Seconds per input entry gathered for a product: written once, read once.
_PER_GATHERED = 0.2e-9
# A run of fewer entries takes as long to gather as one of these.
_SHORTEST_RUN = 8
# Seconds per operation of the graph.
_PER_OPERATION = 0.15e-6
# Operations of a packed product, and those of each slice besides.
_OPERATIONS, _OPERATIONS_OF_SLICE = 8, 5
# Columns that the product kernels compute at a time.
_COLUMNS_AT_A_TIME = 32


def _product(samples: int, multiplies: float, weights: float) -> float:
    return max(samples * multiplies * _PER_MULTIPLY, weights * _PER_WEIGHT)


def dense_seconds(samples: int, inputs: int, outputs: int) -> float:
    """Expected time of `(samples, inputs) @ (inputs, outputs)`.

    Example:

    >>> dense_seconds(1, 2048, 2048) < dense_seconds(64, 2048, 2048)
    True
    """
    weights = inputs * outputs
    return _product(samples, weights, weights) + _PER_OPERATION


def _computed_width(width: int) -> int:
    """Columns computed for a block: narrow ones leave instructions half used."""
    return -(-width // _COLUMNS_AT_A_TIME) * _COLUMNS_AT_A_TIME


def slice_in_blocks(samples: int, block_size: tuple[int, int]) -> float:
    """What one slice more costs, in products with one block.

    Args:
      samples: rows of the input.
      block_size: (rows, columns) of a block.
    """
    height, width = block_size
    product = _product(samples, height * _computed_width(width), height * width)
    block = product + samples * max(height, _SHORTEST_RUN) * _PER_GATHERED
    return _OPERATIONS_OF_SLICE * _PER_OPERATION / block


def packed_seconds(samples: int, pattern: Pattern) -> float:
    """Expected time of the same product from kept blocks, by slices.

    Args:
      samples: rows of the input: the batch, times the positions of a convolution.
      pattern: where the kept blocks are.
    """
    height, width = pattern.block_size
    stored = read = pattern.num_stored
    multiplies = stored * height * _computed_width(width)
    if pattern.reads_alike:
        (part,) = pattern.slices
        read = len(part.rows[0])
        multiplies = read * height * _computed_width(len(part.columns) * width)
    product = _product(samples, multiplies, stored * height * width)
    gathered = read * max(height, _SHORTEST_RUN)
    moved = samples * (gathered + 2 * pattern.matrix_shape[1])
    operations = _OPERATIONS + _OPERATIONS_OF_SLICE * len(pattern.slices)
    return product + moved * _PER_GATHERED + operations * _PER_OPERATION
