"""Times packed products beside the fastest dense runtimes: ONNX Runtime and OpenVINO.

A user may leave TFLite, so the dense product of every runtime that is installed runs
in turns with ours in one process, on the same inputs. The result that counts is the
last column: the time of the fastest dense product over that of the packed one. Before
the timing, all products are compared with NumPy.

    pip install 'tf-seqattn[bench,peers]'
    python -m benchmarks.peers
"""

import os

# This must come before TensorFlow and NumPy start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import pathlib
import platform

import numpy as np
import onnx

from benchmarks.inference import dense_layer, tflite_file
from benchmarks.quartiles import quartiles
from benchmarks.runtimes import (
    in_litert,
    in_onnx_runtime,
    in_openvino,
    peer_versions,
)
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.inference.latency import time_in_turns

RESULTS = pathlib.Path(__file__).parent / "results"
# (inputs, outputs, sparsity, block, batch).
CASES = (
    (2048, 2048, 0.9, 64, 64),
    (2048, 2048, 0.9, 32, 64),
    (2048, 2048, 0.9, 16, 64),
    (2048, 2048, 0.9, 32, 256),
    (2048, 2048, 0.9, 32, 1),
    (2048, 2048, 0.9, 16, 1),
    (390, 400, 0.9, 20, 64),
)
PACKED, OWN = "packed TFLite", "TFLite"


def onnx_model(kernel: np.ndarray, bias: np.ndarray, rows: int) -> bytes:
    """A product of `(rows, inputs)` with a kernel, plus a bias, as ONNX."""
    inputs, outputs = kernel.shape
    number = onnx.TensorProto.FLOAT
    tensor, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    from_array = onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [node("MatMul", ["x", "kernel"], ["xw"]), node("Add", ["xw", "bias"], ["y"])],
        "dense",
        [tensor("x", number, [rows, inputs])],
        [tensor("y", number, [rows, outputs])],
        [from_array(kernel, "kernel"), from_array(bias, "bias")],
    )
    # Versions that both runtimes read.
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()


def measure(case: tuple, num_threads: int, seconds: float) -> dict:
    """Times one product in every runtime.

    Args:
      case: of `CASES`.
      num_threads: of every runtime.
      seconds: how long to go on.

    Returns:
      Microseconds by runtime, and the ratios to the packed one with quartiles.
    """
    inputs, outputs, sparsity, block, batch = case
    model, kernel = dense_layer((inputs, outputs), block, sparsity)
    bias = np.asarray(model.get_weights()[1])
    x = np.random.default_rng(1).normal(size=(batch, inputs)).astype("float32")
    written = onnx_model(kernel, bias, batch)
    files = {
        layout: tflite_file(model, x, layout, num_threads=num_threads)
        for layout in ("dense", "packed")
    }
    products = {
        OWN: in_litert(files["dense"], x, num_threads),
        "ONNX Runtime": in_onnx_runtime(written, x, num_threads),
        "OpenVINO": in_openvino(written, x, num_threads),
        PACKED: in_litert(files["packed"], x, num_threads),
    }
    for call, result in products.values():
        call()
        np.testing.assert_allclose(result(), x @ kernel + bias, atol=1e-3)
    times = time_in_turns({n: call for n, (call, _) in products.items()}, seconds)
    fastest = np.min([taken for n, taken in times.items() if n != PACKED], axis=0)
    return {
        "case": list(case),
        "num_threads": num_threads,
        "microseconds": {n: 1e6 * float(np.median(t)) for n, t in times.items()},
        "to_own": quartiles(times[OWN] / times[PACKED]),
        "to_fastest": quartiles(fastest / times[PACKED]),
    }


def row(result: dict) -> list[str]:
    """The cells of one case."""
    inputs, outputs, sparsity, block, batch = result["case"]
    ratios = [
        "{:.2f} ({:.2f}-{:.2f})".format(*result[name])
        for name in ("to_own", "to_fastest")
    ]
    return [
        f"{inputs} x {outputs}, {sparsity:.0%}, {block} x {block}",
        str(batch),
        str(result["num_threads"]),
        *(f"{taken:,.0f}" for taken in result["microseconds"].values()),
        *ratios,
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measures all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each case")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    results = []
    for num_threads in options.threads:
        for case in CASES:
            results.append(measure(case, num_threads, options.seconds))
            print(" | ".join(row(results[-1])), flush=True)
    names = list(results[0]["microseconds"])
    titles = ["product", "batch", "threads", *(f"{name}, us" for name in names)]
    titles += ["packed to own dense", "packed to the fastest dense"]
    command = command_line.command_text("benchmarks.peers", arguments)
    text = (
        f"# Packed products beside other runtimes\n\n`{command}` on "
        f"{platform.machine()}, {os.cpu_count()} cores; {peer_versions()}; float32. "
        "Times are medians, ratios medians with quartiles of rounds in turns; above 1 "
        "the packed product is faster.\n\n"
        f"{markdown_table(titles, map(row, results))}"
    )
    write_whole(RESULTS / "peers.md", text)
    write_json(RESULTS / "peers.json", results)
    print(text)


if __name__ == "__main__":
    main()
