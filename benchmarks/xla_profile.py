"""What a packed product spends its time on in XLA, on one thread.

XLA computes the product of each kept block, and then adds up each column of blocks
(`multiply_blocks`). Each of these parts is compiled by itself, on what the part before
it gave, and runs in turns with the whole product and with the dense one, which
TensorFlow and XLA both compute. The calls are of concrete functions, as in serving.
What a call finds in the caches counts: so a turn has few calls, right after those of
another function, or many.

    python -m benchmarks.xla_profile
"""

import os

# This must come before TensorFlow and NumPy start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import pathlib
import platform
from collections.abc import Callable

import numpy as np
import tensorflow as tf

import tf_seqattn as sa
from benchmarks.inference import dense_layer, keras_call
from benchmarks.quartiles import quartiles
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.inference.latency import time_in_turns
from tf_seqattn.inference.packed_layers import positions_of

RESULTS = pathlib.Path(__file__).parent / "results"
# (inputs, outputs, sparsity, block, batch), as in `inference.py`.
CASES = (
    (2048, 2048, 0.9, 64, 64),
    (2048, 2048, 0.9, 32, 64),
)
DENSE, DENSE_XLA, WHOLE = "dense in TensorFlow", "dense in XLA", "packed"
# Calls of a function in turn.
FEW, MANY = 5, 40
GATHER, PRODUCTS, SUMS = "gather", "products of blocks", "sums of columns"


def compiled(function: Callable, *arguments: tf.Tensor) -> Callable[[], np.ndarray]:
    """A call of a function that XLA compiled, on arguments that it does not know."""
    specs = [tf.TensorSpec(value.shape, value.dtype) for value in arguments]
    concrete = tf.function(
        function, jit_compile=True, input_signature=specs
    ).get_concrete_function()
    return lambda: concrete(*arguments).numpy()


def calls_of(case: tuple[int, int, float, int, int]) -> dict[str, Callable]:
    """The dense products, the packed one, and its parts, by name."""
    inputs, outputs, sparsity, block, batch = case
    model, _ = dense_layer((inputs, outputs), block, sparsity)
    x = np.random.default_rng(1).normal(size=(batch, inputs)).astype("float32")
    packed = sa.pack(model, batch_size=batch, runtime="xla", choose="always")
    layer = packed.layers[-1]
    rows, columns = positions_of(layer.pattern)
    block_rows, block_columns = layer.pattern.grid_shape

    def gather(values: tf.Tensor) -> tf.Tensor:
        values = tf.reshape(values, (batch, block_rows, block))
        return tf.gather(tf.transpose(values, (1, 0, 2)), rows)

    def multiply(read: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.matmul(read, kernel)

    def add_up(products: tf.Tensor) -> tf.Tensor:
        sums = tf.math.unsorted_segment_sum(products, columns, block_columns)
        return tf.reshape(tf.transpose(sums, (1, 0, 2)), (batch, -1))

    kernel = tf.convert_to_tensor(layer.kernels[0])
    read = gather(tf.constant(x))
    return {
        DENSE: keras_call(model, x, False),
        DENSE_XLA: keras_call(model, x, True),
        WHOLE: keras_call(packed, x, True),
        GATHER: compiled(gather, tf.constant(x)),
        PRODUCTS: compiled(multiply, read, kernel),
        SUMS: compiled(add_up, multiply(read, kernel)),
    }


def measure(case: tuple[int, int, float, int, int], seconds: float) -> dict:
    """Times one case.

    Returns:
      The case, the microseconds of each call, and the time of the faster dense product
      over that of each (median and quartiles), in turns of few and of many calls.
    """
    calls = calls_of(case)
    np.testing.assert_allclose(calls[WHOLE](), calls[DENSE](), atol=1e-3)
    result: dict = {"case": list(case)}
    for number in (FEW, MANY):
        times = time_in_turns(calls, seconds, calls_a_turn=number)
        dense = np.minimum(times[DENSE], times[DENSE_XLA])
        result[f"{number} calls"] = {
            name: {
                "microseconds": 1e6 * float(np.median(taken)),
                "speedup": quartiles(dense / taken),
            }
            for name, taken in times.items()
        }
    return result


def table(results: list[dict]) -> str:
    """The Markdown table."""
    rows = []
    for result in results:
        inputs, outputs, sparsity, block, batch = result["case"]
        size = f"{inputs} x {outputs}, {sparsity:.0%}, {block} x {block}"
        for name in result[f"{FEW} calls"]:
            row = [f"{size}, batch {batch}", name]
            for number in (FEW, MANY):
                found = result[f"{number} calls"][name]
                median, low, high = found["speedup"]
                row += [
                    f"{found['microseconds']:,.0f}",
                    f"{median:.2f} ({low:.2f}-{high:.2f})",
                ]
            rows.append(row)
    columns = [
        f"{what}, {number} calls"
        for number in (FEW, MANY)
        for what in ("us", "the faster dense to it")
    ]
    return markdown_table(["product", "part", *columns], rows)


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each case")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    results = [measure(case, arguments.seconds) for case in CASES]
    text = (
        "# A packed product in XLA, part by part\n\n"
        f"`python -m benchmarks.xla_profile` on {platform.machine()}, one thread, "
        "float32. Times are medians, ratios medians with quartiles of rounds in turns. "
        f"A turn has {FEW} calls, right after those of another function, or {MANY}; "
        "one more is not counted. A part by itself also pays for its call.\n\n"
        f"{table(results)}\n"
    )
    write_json(RESULTS / "xla_profile.json", results)
    write_whole(RESULTS / "xla_profile.md", text)
    print(text)


if __name__ == "__main__":
    main()
