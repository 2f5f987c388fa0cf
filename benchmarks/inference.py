"""Times block-sparse products and dense ones, on one thread.

All programs of a case run in turns in one process, with five counted calls per turn. A
round gives one ratio to the dense program of that round. On a CPU, dense with XLA is
slower than dense without it. The speed-up of the XLA form is relative to the faster
one.

- The cases: 2048 x 2048 and the first layer of the Criteo model, with random supports
  and with balanced ones (`sa.prune(..., balanced=True)`), in float32 and in 8 bits.
- The sweep: sparsities, block sizes and batches of a 1024 x 1024 layer, compared with
  TFLite's own sparse encoding, SciPy's BSR and, if it is installed, PyTorch's BSR. It
  also gives the sparsity from which packing pays.

    python -m benchmarks.inference
"""

import os

# This must come before TensorFlow and NumPy start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import importlib.util
import json
import pathlib
import platform
import tempfile

import numpy as np
import scipy.sparse
import tensorflow as tf
import tf_keras as keras
from matplotlib.figure import Figure

import tf_seqattn as sa
from benchmarks.quartiles import quartiles
from tf_seqattn.inference import litert
from tf_seqattn.inference.latency import time_in_turns

RESULTS = pathlib.Path(__file__).parent / "results"
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
BLOCKS = (4, 8, 16, 32, 64, 128)
BATCHES = (1, 16, 128, 1024)
SWEEP_SIZE = 1024
# (inputs, outputs, sparsity, block, batch).
FLOAT_CASES = (
    (2048, 2048, 0.90, 64, 64),
    (2048, 2048, 0.90, 32, 64),
    (2048, 2048, 0.90, 16, 64),
    (2048, 2048, 0.90, 64, 1),
    (2048, 2048, 0.90, 32, 1),
    (2048, 2048, 0.90, 16, 1),
    (2048, 2048, 0.95, 32, 64),
    (390, 400, 0.90, 20, 64),
    (390, 400, 0.90, 20, 1),
)
QUANTIZED_CASES = ((2048, 2048, 0.90, 32, 1), (2048, 2048, 0.90, 32, 64))
XLA_CASES = FLOAT_CASES[:2] + FLOAT_CASES[3:5]


def block_mask(shape, block: int, density: float, balanced: bool, rng) -> np.ndarray:
    """A 0/1 matrix that keeps `density` of its blocks, drawn without replacement."""
    rows, columns = (-(-size // block) for size in shape)
    if balanced:
        kept = max(1, round(density * rows))
        support = np.argsort(rng.random((rows, columns)), axis=0) < kept
    else:
        kept = max(1, round(density * rows * columns))
        order = np.argsort(rng.random(rows * columns)).reshape(rows, columns)
        support = order < kept
    return np.kron(support, np.ones((block, block)))[: shape[0], : shape[1]]


def dense_layer(shape, block: int, sparsity: float, balanced=False, seed=0):
    """A model of one Dense layer with zeros in blocks, and its kernel."""
    rng = np.random.default_rng(seed)
    mask = block_mask(shape, block, 1 - sparsity, balanced, rng)
    kernel = (mask * rng.normal(size=shape) / np.sqrt(shape[0])).astype("float32")
    model = keras.Sequential([keras.layers.Dense(shape[1], input_shape=shape[:1])])
    model.set_weights([kernel, rng.normal(size=shape[1])])
    return model, kernel


def tflite_file(
    model, inputs, layout: str, quantization=None, num_threads: int = 1
) -> bytes:
    """The exported model, for batches like `inputs`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        sa.export_tflite(
            model,
            path,
            layout,
            quantization,
            representative_dataset=[inputs] if quantization == "int8" else None,
            batch_size=len(inputs),
            choose="always",
            num_threads=num_threads,
        )
        return path.read_bytes()


def keras_call(model, inputs, jit_compile: bool):
    """A call of a Keras model on a tensor, by the concrete function that is served."""
    spec = tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)
    function = tf.function(model, jit_compile=jit_compile, input_signature=[spec])
    function = function.get_concrete_function()
    value = tf.constant(inputs)
    return lambda: function(value).numpy()


def measure_case(case, balanced: bool, runtime: str, seconds: float) -> dict:
    """Times one layer dense and packed.

    Args:
      case: (inputs, outputs, sparsity, block, batch).
      balanced: whether every block column keeps equally many.
      runtime: "float32", "dynamic" or "int8" (TFLite), or "XLA".
      seconds: how long to continue.
    """
    inputs, outputs, sparsity, block, batch = case
    model, kernel = dense_layer((inputs, outputs), block, sparsity, balanced)
    x = np.random.default_rng(1).normal(size=(batch, inputs)).astype("float32")
    size = None
    if runtime == "XLA":
        packed = sa.pack(model, batch_size=batch, runtime="xla", choose="always")
        calls = {
            "dense": keras_call(model, x, False),
            "dense XLA": keras_call(model, x, True),
            "packed": keras_call(packed, x, True),
        }
    else:
        quantization = None if runtime == "float32" else runtime
        files = {
            layout: tflite_file(model, x, layout, quantization)
            for layout in ("dense", "packed")
        }
        calls = {n: litert.interpreter(f, [x]).invoke for n, f in files.items()}
        size = len(files["packed"])
    times = time_in_turns(calls, seconds)
    reference = np.minimum(times["dense"], times.get("dense XLA", np.inf))
    kept = np.count_nonzero(kernel)
    weight_bytes = 4 if runtime in ("float32", "XLA") else 1
    return {
        "case": list(case),
        "balanced": balanced,
        "runtime": runtime,
        "microseconds": {k: 1e6 * float(np.median(t)) for k, t in times.items()},
        "speedup": quartiles(reference / times["packed"]),
        "ceiling": kernel.size / kept,
        "file_to_kept": None if size is None else size / (weight_bytes * kept),
    }


def case_line(result: dict) -> str:
    """One Markdown row of `measure_case`."""
    inputs, outputs, sparsity, block, batch = result["case"]
    median, low, high = result["speedup"]
    size = result["file_to_kept"]
    dense = min(t for n, t in result["microseconds"].items() if n != "packed")
    return (
        f"| {inputs} x {outputs}, {sparsity:.0%}, {block} x {block} | {batch} | "
        f"{result['runtime']} | {'balanced' if result['balanced'] else 'random'} | "
        f"{dense:.0f} | {result['microseconds']['packed']:.0f} | {median:.2f} "
        f"({low:.2f} to {high:.2f}) | {result['ceiling']:.1f} | "
        f"{'–' if size is None else f'{size:.3f}'} |"
    )


def library_calls(kernel: np.ndarray, block: int, x: np.ndarray) -> dict:
    """Functions for the same product with the block formats of other libraries."""
    matrix = scipy.sparse.bsr_matrix(kernel.T, blocksize=(block, block))
    columns = np.ascontiguousarray(x.T)
    calls = {"SciPy BSR": lambda: matrix @ columns}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        sparse = torch.tensor(kernel.T).to_sparse_bsr((block, block))
        dense, value = torch.tensor(kernel), torch.tensor(columns)
        rows = torch.tensor(x)
        calls["PyTorch dense"] = lambda: rows @ dense
        calls["PyTorch BSR"] = lambda: sparse @ value
    return calls


def measure_sweep(sparsity: float, block: int, seconds: float) -> list[dict]:
    """Times one layer by every program, one result for each batch size."""
    model, kernel = dense_layer((SWEEP_SIZE, SWEEP_SIZE), block, sparsity)
    any_batch = np.zeros((1, SWEEP_SIZE), "float32")
    files = {name: tflite_file(model, any_batch, name) for name in ("dense", "sparse")}
    results = []
    for batch in BATCHES:
        rng = np.random.default_rng(1)
        x = rng.normal(size=(batch, SWEEP_SIZE)).astype("float32")
        files["packed"] = tflite_file(model, x, "packed")
        calls = {n: litert.interpreter(f, [x]).invoke for n, f in files.items()}
        calls |= library_calls(kernel, block, x)
        times = time_in_turns(calls, seconds, rounds=4, calls_a_turn=3)
        results.append(
            {
                "sparsity": sparsity,
                "block": block,
                "batch": batch,
                "ceiling": kernel.size / np.count_nonzero(kernel),
                "speedup": {
                    name: quartiles(times["dense"] / taken)
                    for name, taken in times.items()
                    if name != "dense"
                },
            }
        )
    return results


def sweep_lines(results: list[dict]) -> list[str]:
    """Markdown rows of the sweep."""
    programs = list(results[0]["speedup"])
    lines = [
        "| blocks removed | block | batch | ceiling | " + " | ".join(programs) + " |",
        "|---" * (4 + len(programs)) + "|",
    ]
    for result in results:
        cells = [
            "{:.2f} ({:.2f} to {:.2f})".format(*result["speedup"][p]) for p in programs
        ]
        lines.append(
            f"| {result['sparsity']:.0%} | {result['block']} | {result['batch']} | "
            f"{result['ceiling']:.1f} | " + " | ".join(cells) + " |"
        )
    return lines


def break_even(results: list[dict], block: int, batch: int) -> str:
    """The sparsity from which packing pays, interpolated between measurements."""
    points = sorted(
        (r["sparsity"], r["speedup"]["packed"][0])
        for r in results
        if (r["block"], r["batch"]) == (block, batch)
    )
    if points[0][1] > 1:
        return f"below {points[0][0]:.0%}"
    for (s0, r0), (s1, r1) in zip(points, points[1:], strict=False):
        if r0 <= 1 < r1:
            # By density, since the time of a product is close to linear in it.
            share = (1 - 1 / r0) / (1 / r1 - 1 / r0)
            return f"{s0 + (s1 - s0) * share:.0%}"
    return f"above {points[-1][0]:.0%}"


def break_even_lines(results: list[dict]) -> list[str]:
    """Markdown rows: block sizes down, batches across."""
    lines = [
        "| block | " + " | ".join(f"batch {b}" for b in BATCHES) + " |",
        "|---" * (1 + len(BATCHES)) + "|",
    ]
    for block in sorted({r["block"] for r in results}):
        cells = [break_even(results, block, batch) for batch in BATCHES]
        lines.append(f"| {block} x {block} | " + " | ".join(cells) + " |")
    return lines


def draw(results: list[dict], path: pathlib.Path):
    """Speed-up against sparsity, one panel per batch size, with the 1/density line."""
    figure = Figure(figsize=(3.4 * len(BATCHES), 3.8), layout="constrained")
    panels = figure.subplots(1, len(BATCHES), sharey=True)
    blocks = sorted({r["block"] for r in results})
    for panel, batch in zip(panels, BATCHES, strict=True):
        chosen = [r for r in results if r["batch"] == batch]
        sparsities = sorted({r["sparsity"] for r in chosen})
        x = [1 - s for s in sparsities]
        panel.plot(x, [1 / d for d in x], color="black", lw=1, label="1 / density")
        for number, block in enumerate(blocks):
            points = sorted(
                (1 - r["sparsity"], *r["speedup"]["packed"])
                for r in chosen
                if r["block"] == block
            )
            density, median, low, high = zip(*points, strict=True)
            colour = (0.9 - 0.8 * number / len(blocks), 0.35, 0.1 + 0.13 * number)
            panel.plot(density, median, "o-", color=colour, ms=4, label=f"{block}")
            panel.fill_between(density, low, high, color=colour, alpha=0.2, lw=0)
        encoding = [
            max(r["speedup"]["sparse"][0] for r in chosen if r["sparsity"] == s)
            for s in sparsities
        ]
        panel.plot(x, encoding, "--", color="grey", label="TFLite's sparse encoding")
        panel.axhline(1, color="grey", lw=0.8)
        panel.set(xscale="log", yscale="log", title=f"batch {batch}")
        panel.invert_xaxis()
        panel.set_xticks(x, [f"{s:.0%}" if s != 0.8 else "" for s in sparsities])
        panel.set_xticks([], minor=True)
        panel.set_xlabel("blocks removed")
        panel.spines[["top", "right"]].set_visible(False)
    ticks = [0.25, 0.5, 1, 2, 5, 10, 20, 50, 100]
    panels[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    panels[0].set_yticks([], minor=True)
    panels[0].set_ylabel("speed-up over dense")
    handles, labels = panels[0].get_legend_handles_labels()
    labels = [f"{n} x {n} blocks" if n.isdigit() else n for n in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def main():
    """Measures, and writes the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--sweep-seconds", type=float, default=0.3, help="for each")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    cases = []
    for runtime, some in (
        ("float32", FLOAT_CASES),
        ("dynamic", QUANTIZED_CASES),
        ("int8", QUANTIZED_CASES),
        ("XLA", XLA_CASES),
    ):
        for balanced in (False, True):
            for case in some:
                cases.append(measure_case(case, balanced, runtime, arguments.seconds))
                print(case_line(cases[-1]), flush=True)
    sweep = []
    for block in BLOCKS:
        for sparsity in SPARSITIES:
            sweep += measure_sweep(sparsity, block, arguments.sweep_seconds)
        print(f"sweep: blocks of {block} done", flush=True)
    lines = [
        "# Block-sparse inference, one layer",
        "",
        f"`python -m benchmarks.inference` on {platform.machine()}, one thread. "
        "Speed-up over the dense layer of the same precision and runtime: median "
        "(quartiles) of the rounds. In XLA it is over the faster of TensorFlow and "
        "XLA. The ceiling is 1 / density. Times in microseconds.",
        "",
        "## Cases",
        "",
        "| kernel | batch | runtime | support | dense | packed | speed-up | ceiling | "
        "file / kept weights |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(case_line, cases),
        "",
        f"## Sweep: {SWEEP_SIZE} x {SWEEP_SIZE}, float32, random supports",
        "",
        "`packed` and `sparse` (TFLite's own encoding) are TFLite files; all speed-ups "
        "are over the dense TFLite file.",
        "",
        "![Speed-up against sparsity](inference.png)",
        "",
        "Blocks removed, from which packing pays:",
        "",
        *break_even_lines(sweep),
        "",
        *sweep_lines(sweep),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "inference.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "inference.json").write_text(
        json.dumps({"cases": cases, "sweep": sweep}, indent=1)
    )
    draw(sweep, RESULTS / "inference.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
