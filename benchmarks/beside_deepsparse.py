"""Times packed products and ResNet50 beside DeepSparse 1.8, at the same weights.

DeepSparse computes sparse networks on CPU, with any pattern of zeros. It ended in 2025
and needs an environment of its own, in Python 3.8 to 3.11; its process and this one
take turns, and the one that waits sleeps. Both read the same kernels and inputs, and
their outputs are compared before the timing.

    python3.11 -m venv out/deepsparse
    out/deepsparse/bin/pip install deepsparse==1.8.0
    python -m benchmarks.beside_deepsparse
"""

import os

# This must come before TensorFlow and NumPy start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import contextlib
import functools
import pathlib
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx

from benchmarks import inference_models, peers
from benchmarks.inference import dense_layer, tflite_file
from benchmarks.quartiles import quartiles
from benchmarks.runtimes import Program, in_litert, onnx_of
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.inference.latency import seconds_of_turn, take_turns

RESULTS = pathlib.Path(__file__).parent / "results"
WORKER = pathlib.Path(__file__).parent / "deepsparse_worker.py"
NETWORKS = tuple(
    name
    for name, network in inference_models.NETWORKS.items()
    if name.startswith("ResNet50") and network.block == 32
)
DENSE, PACKED, PEER = "dense TFLite", "packed TFLite", "DeepSparse"
LAYOUTS = {DENSE: "dense", PACKED: "packed"}


class Turns(NamedTuple):
    """Counted calls in each turn, and the smallest number of rounds."""

    calls: int
    rounds: int


OF_PRODUCTS, OF_NETWORKS = Turns(5, 10), Turns(2, 5)


@contextlib.contextmanager
def in_deepsparse(
    python: str, model: bytes, x: np.ndarray, calls: int, folder: str
) -> Iterator[tuple[Callable[[], float], np.ndarray]]:
    """An ONNX model of one input in DeepSparse, on one thread.

    Args:
      python: of an environment that has DeepSparse.
      model: its bytes, of a version that DeepSparse reads.
      x: the inputs.
      calls: counted in a turn.
      folder: for the files that the other process reads.

    Yields:
      A function that makes a turn of calls and returns the mean seconds of one, and
      the outputs.
    """
    files = [pathlib.Path(folder) / name for name in ("m.onnx", "x.npy", "y.npy")]
    files[0].write_bytes(model)
    np.save(files[1], x)
    with subprocess.Popen(
        [python, str(WORKER), *map(str, files), "1", str(calls)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout

        def answer() -> str:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(
                    "The process of DeepSparse ended: its message is above. Received: "
                    f"--python {python}, which must have deepsparse 1.8."
                )
            return line

        def turn() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(answer())

        # The engine prints a line about itself first.
        while answer().strip() != str(files[2]):
            pass
        yield turn, np.load(files[2])
        process.stdin.close()


def measure(
    title: str,
    programs: dict[str, Program],
    model: bytes,
    x: np.ndarray,
    turns: Turns,
    options: argparse.Namespace,
) -> dict:
    """Times the files of TFLite and the ONNX model in turns.

    Returns:
      Microseconds of each, and the times of DeepSparse and of the dense file over that
      of the packed one, with quartiles.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        in_deepsparse(options.python, model, x, turns.calls, folder) as (
            peer_turn,
            outputs,
        ),
    ):
        for name, (call, result) in programs.items():
            call()
            size = np.abs(outputs).max()
            np.testing.assert_allclose(
                result(), outputs, atol=1e-3 * size, err_msg=f"{title}: {name}"
            )
        own = {
            name: functools.partial(seconds_of_turn, call, turns.calls)
            for name, (call, _) in programs.items()
        }
        taken = take_turns({**own, PEER: peer_turn}, options.seconds, turns.rounds)
    return {
        "case": title,
        "batch": len(x),
        "microseconds": {n: 1e6 * float(np.median(t)) for n, t in taken.items()},
        "to_own": quartiles(taken[DENSE] / taken[PACKED]),
        "to_deepsparse": quartiles(taken[PEER] / taken[PACKED]),
    }


def measure_product(case: tuple, options: argparse.Namespace) -> dict:
    """Times one product of `peers.CASES`."""
    inputs, outputs, sparsity, block, batch = case
    model, kernel = dense_layer((inputs, outputs), block, sparsity)
    x = np.random.default_rng(1).normal(size=(batch, inputs)).astype("float32")
    written = peers.onnx_model(kernel, np.asarray(model.get_weights()[1]), batch)
    programs = {
        name: in_litert(tflite_file(model, x, layout), x, 1)
        for name, layout in LAYOUTS.items()
    }
    title = f"{inputs} x {outputs}, {sparsity:.0%}, {block} x {block}"
    return measure(title, programs, written, x, OF_PRODUCTS, options)


def measure_network(name: str, options: argparse.Namespace) -> dict:
    """Times one network of `inference_models.NETWORKS`."""
    network = inference_models.NETWORKS[name]
    model = inference_models.pruned(network)
    x = inference_models.inputs_for(network, model)
    with tempfile.TemporaryDirectory() as folder:
        files = inference_models.export(model, x, folder)
        programs = {
            name: in_litert(files[layout][0].read_bytes(), x, 1)
            for name, layout in LAYOUTS.items()
        }
        written = onnx.load_from_string(onnx_of(files["dense"][0]))
    # DeepSparse reads no newer version, and no operators of other makers.
    written.ir_version = min(written.ir_version, 8)
    own = [entry for entry in written.opset_import if not entry.domain]
    del written.opset_import[:]
    written.opset_import.extend(own)
    eligible = inference_models.eligible_layers(
        network.sparsity, network.block, network.min_blocks
    )
    title = f"{name.split(',')[0]}, {eligible}"
    written_bytes = written.SerializeToString()
    return measure(title, programs, written_bytes, x, OF_NETWORKS, options)


def row(result: dict) -> list[str]:
    """The cells of one case."""
    return [
        result["case"],
        str(result["batch"]),
        *(f"{result['microseconds'][name]:,.0f}" for name in (DENSE, PEER, PACKED)),
        *(
            "{:.2f} ({:.2f}-{:.2f})".format(*result[name])
            for name in ("to_own", "to_deepsparse")
        ),
    ]


def main() -> None:
    """Measures all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", default="out/deepsparse/bin/python", help="that has DeepSparse"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="for each case")
    options = parser.parse_args()
    results = []
    for case in peers.CASES:
        results.append(measure_product(case, options))
        print(" | ".join(row(results[-1])), flush=True)
    for name in NETWORKS:
        results.append(measure_network(name, options))
        print(" | ".join(row(results[-1])), flush=True)
    titles = ["product or network", "batch"]
    titles += [f"{name}, us" for name in (DENSE, PEER, PACKED)]
    titles += ["packed to own dense", "packed to DeepSparse"]
    text = (
        "# Packed products beside DeepSparse 1.8\n\n`python -m benchmarks."
        "beside_deepsparse` on "
        f"{platform.machine()}, one thread, float32, the same weights. Times are "
        "medians, ratios medians with quartiles of rounds in turns; above 1 the packed "
        f"file is faster.\n\n{markdown_table(titles, map(row, results))}"
    )
    write_whole(RESULTS / "beside_deepsparse.md", text)
    write_json(RESULTS / "beside_deepsparse.json", results)
    print(text)


if __name__ == "__main__":
    main()
