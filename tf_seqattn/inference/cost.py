"""Predicts the cost of a product, dense and packed, without measuring.

The model is a roofline of one x86-64 thread. Its constants depend on the precision, and
on the kind of processor, because dense products gain more from wide instructions than
gathers do. The prediction is the smaller one of both kinds, so that a file is not
slower than the dense one on either. Only ratios are used, to decide whether packing
pays. If the decision is close, or the machine is different, measure (`sa.pack(...,
choose="measure")`).

The constants of AVX2 were fitted to the table that `benchmarks/packed_or_dense.py`
writes (`--fit`), on a machine with other work. Those of AVX-512 were fitted in float32
to the table of `benchmarks/inference.py`; in 8 bits they follow from a few cases of it.
"""

import dataclasses
import math

from tf_seqattn.inference.block_format import Pattern


@dataclasses.dataclass(frozen=True)
class Constants:
    """What products cost on one kind of processor in one precision.

    Attributes:
      multiply: seconds per multiply-add in a large product.
      weight: seconds per weight read. It bounds small batches.
      gathered: seconds per input entry that is gathered for a product (written once,
        read once), if the inputs stay in the cache next to the processor.
      run: seconds to start a run of gathered entries.
      operation: seconds per operation of the graph.
      columns: columns that the product kernels compute at a time.
    """

    multiply: float
    weight: float
    gathered: float
    run: float
    operation: float
    columns: int


_FLOAT_AVX2 = Constants(1 / 18e9, 4 / 22e9, 0.74e-9, 1.6e-9, 0.16e-6, 16)
_FLOAT_AVX512 = Constants(1 / 106e9, 4 / 122e9, 0.15e-9, 2e-9, 0.05e-6, 32)
PROCESSORS: dict[str, dict[str, Constants]] = {
    "AVX2": {
        "float32": _FLOAT_AVX2,
        "float16": _FLOAT_AVX2,
        "dynamic": Constants(1 / 22e9, 1 / 26e9, 0.97e-9, 16e-9, 0.31e-6, 8),
        "int8": Constants(1 / 23e9, 1 / 40e9, 0.29e-9, 3.1e-9, 0.25e-6, 8),
    },
    "AVX-512": {
        "float32": _FLOAT_AVX512,
        "float16": _FLOAT_AVX512,
        "dynamic": dataclasses.replace(_FLOAT_AVX512, multiply=1 / 440e9),
        "int8": Constants(1 / 440e9, 1 / 120e9, 0.1e-9, 2e-9, 0.1e-6, 32),
    },
}
# A step of training runs operations of TensorFlow, which take longer to start.
for _kind in PROCESSORS.values():
    _kind["training"] = dataclasses.replace(_kind["float32"], operation=15e-6)
# Inputs of this many bytes no longer stay in the cache next to the processor.
_CACHE_BYTES = 2**19
# Operations of a packed product, and the additional ones of each slice.
_OPERATIONS, _OPERATIONS_OF_SLICE = 6, 4
# Share of a product's work that one more thread takes. Gathers run on one thread.
_PARALLEL = 0.9


def bytes_of_entry(precision: str) -> int:
    """Bytes of one input of a product. Only int8 stores its inputs in 8 bits."""
    return 1 if precision == "int8" else 4


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of products with so many samples, in one precision.

    Attributes:
      samples: rows of the input, which is the batch times the positions of a
        convolution.
      precision: see `LayerPlan`, or "training".
      num_threads: number of threads of the runtime.

    Example:

    >>> Cost(1).dense(2048, 2048) < Cost(64).dense(2048, 2048)
    True
    """

    samples: int
    precision: str = "float32"
    num_threads: int = 1
    processor: str = "AVX2"

    @property
    def _constants(self) -> Constants:
        return PROCESSORS[self.processor][self.precision]

    def _product(self, weights: int) -> float:
        """Seconds of a product with so many weights."""
        constants = self._constants
        seconds = weights * max(self.samples * constants.multiply, constants.weight)
        return seconds / (1 + _PARALLEL * (self.num_threads - 1))

    def dense(self, inputs: int, outputs: int) -> float:
        """Expected seconds of `(samples, inputs) @ (inputs, outputs)`."""
        return self._product(inputs * outputs) + self._constants.operation

    def _computed_width(self, width: int) -> int:
        """Columns computed for a block. Narrow blocks leave instructions half used."""
        at_a_time = self._constants.columns
        return -(-width // at_a_time) * at_a_time

    def slice_in_blocks(self, block_size: tuple[int, int]) -> float:
        """Cost of one more slice, in products with one block (rows, columns)."""
        height, width = block_size
        constants = self._constants
        product = self._product(height * self._computed_width(width))
        gathered = self.samples * (height * constants.gathered + constants.run)
        return _OPERATIONS_OF_SLICE * constants.operation / (product + gathered)

    def packed(self, pattern: Pattern, window: int = 1) -> float:
        """Expected seconds of the same product from its kept blocks, by slices.

        Args:
          pattern: the positions of the kept blocks.
          window: positions in the window of a convolution. Neighbours read the same
            inputs.
        """
        constants = self._constants
        height, width = pattern.block_size
        read = stored = pattern.num_stored
        weights = stored * height * self._computed_width(width)
        if pattern.reads_alike:
            (part,) = pattern.slices
            read = len(part.rows[0])
            weights = read * height * self._computed_width(len(part.columns) * width)
        inputs, outputs = pattern.matrix_shape
        entries, runs = read * height + 2 * outputs, read
        if self.precision == "training":
            # The inputs are transposed, and the windows of a convolution unfolded.
            entries += 2 * inputs
        moved = entries * constants.gathered + runs * constants.run
        input_bytes = self.samples * inputs // window * bytes_of_entry(self.precision)
        far = math.sqrt(1.0 + input_bytes / _CACHE_BYTES)
        operations = _OPERATIONS + _OPERATIONS_OF_SLICE * len(pattern.slices)
        return (
            self._product(weights)
            + self.samples * moved * far
            + operations * constants.operation
        )

    def speedup(self, pattern: Pattern, window: int = 1) -> float:
        """Time of the dense product over that of the packed one.

        It is the smaller one of both kinds of processors.
        """
        kinds = [dataclasses.replace(self, processor=name) for name in PROCESSORS]
        return min(
            k.dense(*pattern.matrix_shape) / k.packed(pattern, window) for k in kinds
        )
